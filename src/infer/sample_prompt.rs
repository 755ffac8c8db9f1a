//! Sample prompts: prompts that a run answers at each evaluation, to show how the model changes.

use std::ops::ControlFlow;

use super::generate::check;
use super::{
    Frame, GenerateConfig, InferError, Prompt, Sampling, Stop, TextStream, generate, stops,
};
use crate::data::Encoder;
use crate::data::template::ChatTemplate;
use crate::data::tokenize::Tokenizer;
use crate::model::{Cache, Decoder, DecoderSpec};

/// The most tokens of an answer: enough to see a change.
const ANSWER_TOKENS: usize = 64;

/// A sample prompt as tokens.
#[derive(Debug)]
pub struct SamplePrompt {
    /// The prompt as written.
    pub text: String,
    tokens: Vec<u32>,
    /// The frame around it. In a conversation the answer is a text of its own; elsewhere it
    /// continues the prompt.
    pub frame: Frame,
}

/// Answers prompts by greedy decoding, up to the end of a turn or a document, or 64 tokens.
#[derive(Debug)]
pub struct Answerer<'a> {
    encoder: &'a Encoder,
    config: GenerateConfig,
}

impl SamplePrompt {
    /// Puts a prompt in the frame in which the run's rows are trained.
    ///
    /// # Errors
    /// The template or the tokenizer does not accept it; or it has no token, too many for the base,
    /// or some that the base does not know.
    pub fn new(
        text: &str,
        frame: Frame,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        spec: &DecoderSpec,
    ) -> Result<Self, InferError> {
        let tokens = Prompt::framed(text, frame).tokens(tokenizer, template)?;
        check(spec, &tokens)?;
        Ok(Self {
            text: text.to_owned(),
            tokens,
            frame,
        })
    }
}

impl<'a> Answerer<'a> {
    /// Returns an answerer with the tokenizer and the template of the run.
    pub fn new(encoder: &'a Encoder) -> Self {
        let stops = stops(&encoder.tokenizer, encoder.template.as_ref());
        Self {
            encoder,
            config: GenerateConfig {
                max_tokens: ANSWER_TOKENS,
                sampling: Sampling::GREEDY,
                stops,
            },
        }
    }

    /// Returns the text of the answer, or `None` if `is_stopped` became true.
    ///
    /// # Errors
    /// A logit is not finite, or the tokenizer's decoder fails.
    pub fn answer(
        &self,
        decoder: &Decoder,
        question: &SamplePrompt,
        is_stopped: impl Fn() -> bool,
    ) -> Result<Option<String>, InferError> {
        let mut each = |_| {
            if is_stopped() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let generated = generate(
            decoder,
            &mut Cache::new(decoder),
            &question.tokens,
            &self.config,
            &mut each,
        )?;
        if generated.stop == Stop::Interrupted {
            return Ok(None);
        }
        let before = if question.frame == Frame::Chat {
            &[]
        } else {
            question.tokens.as_slice()
        };
        let (mut stream, mut text) = (
            TextStream::after(&self.encoder.tokenizer, before),
            String::new(),
        );
        for token in generated.tokens {
            text += &stream.push(token)?;
        }
        Ok(Some(text + &stream.finish()?))
    }
}
