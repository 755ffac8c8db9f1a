//! `rankine generate`: continues a text or answers in a conversation, and streams the result to
//! stdout.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::model_args::{ModelArgs, SamplingArgs, end_line, show};
use super::{Failure, print};
use crate::fault::{Exit, Fault};
use crate::infer::{Frame, Prompt, Stop, read_messages};
use crate::model::Cache;
use crate::report::{Terminal, peak_memory_bytes};
use crate::run::{Answer, Interrupt, LoadedModel};

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// What the instruction is about, in the second field of Alpaca's frame
    #[arg(
        long,
        value_name = "TEXT",
        requires = "instruction",
        conflicts_with_all = ["prompt", "chat", "messages"]
    )]
    input: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// A text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What a user says, to be answered in the base's chat template
    #[arg(long, value_name = "TEXT")]
    chat: Option<String>,
    /// An instruction, asked in Alpaca's frame, in which rows of `instruction` are trained
    #[arg(long, value_name = "TEXT")]
    instruction: Option<String>,
    /// A conversation to be answered: a JSON list of messages, or an object with `messages` and
    /// `tools`
    #[arg(long, value_name = "FILE.json")]
    messages: Option<PathBuf>,
}

pub(super) fn generate(args: &GenerateArgs, terminal: &Terminal) -> Result<(), Failure> {
    let prompt = args.prompt.read(args.input.as_deref())?;
    let speaker = args.model.load(&args.sampling, terminal)?;
    let tokens = prompt.tokens(
        &speaker.encoder.tokenizer,
        speaker.encoder.template.as_ref(),
    )?;
    if !args.prompt.is_framed_by_hand(&speaker, &tokens) {
        speaker.note_mismatch(args.prompt.frame(), &|event| terminal.take(&event));
    }
    // An answer is a text of its own.
    let context = if matches!(prompt, Prompt::Text(_)) {
        tokens.as_slice()
    } else {
        &[]
    };
    let (interrupt, started) = (Interrupt::listen()?, Instant::now());
    let shown = |text: &str| {
        if args.json {
            Ok(ControlFlow::Continue(()))
        } else {
            show(text)
        }
    };
    let answer = speaker.answer(
        &mut Cache::new(&speaker.decoder),
        &tokens,
        context,
        &interrupt,
        shown,
    )?;
    if args.json {
        print(object(&answer, tokens.len(), started.elapsed()))?;
    } else {
        end_line(&answer.text)?;
    }
    match answer.generated.stop {
        Stop::Interrupted if interrupt.is_raised() => Err(Failure::quiet(Exit::Signal)),
        stop => {
            if let Some(note) = note(stop, &speaker) {
                terminal.say(&note);
            }
            Ok(())
        }
    }
}

impl PromptArgs {
    fn frame(&self) -> Frame {
        match (&self.prompt, &self.instruction) {
            (Some(_), _) => Frame::Text,
            (_, Some(_)) => Frame::Instruction,
            (None, None) => Frame::Chat,
        }
    }

    /// Returns whether a plain text already contains a frame: Alpaca's, or special tokens of a
    /// template after its first token.
    fn is_framed_by_hand(&self, speaker: &LoadedModel, tokens: &[u32]) -> bool {
        let has_tokens = || {
            tokens
                .iter()
                .skip(1)
                .any(|id| speaker.encoder.tokenizer.is_added(*id))
        };
        self.prompt
            .as_ref()
            .is_some_and(|text| text.contains("### Instruction:") || has_tokens())
    }

    fn read(&self, input: Option<&str>) -> Result<Prompt, Failure> {
        if let Some(instruction) = &self.instruction {
            return Ok(Prompt::instruction(instruction, input));
        }
        Ok(match (&self.prompt, &self.chat, &self.messages) {
            (Some(text), ..) => Prompt::Text(text.clone()),
            (_, Some(text), _) => Prompt::said(text),
            (.., Some(path)) if !path.is_file() => {
                let fault = Fault::new(format!(
                    "--messages: `{}` does not exist, expected a JSON file",
                    path.display()
                ));
                return Err(Failure::new(Exit::NoInput, fault));
            }
            (.., Some(path)) => Prompt::Chat(read_messages(path)?),
            (None, None, None) => unreachable!("clap asks for one of them"),
        })
    }
}

/// Returns a note on an answer that the model did not end itself.
pub(super) fn note(stop: Stop, speaker: &LoadedModel) -> Option<String> {
    match stop {
        Stop::End(_) | Stop::Interrupted => None,
        Stop::MaxTokens => Some(format!(
            "note: answer cut at {} tokens; more with `--max-tokens`",
            speaker.max_tokens()
        )),
        Stop::Context => Some(format!(
            "note: answer cut at {} tokens, for which the base was made",
            speaker.decoder.spec.context
        )),
    }
}

/// Returns the object for `--json`.
fn object(answer: &Answer, prompt_tokens: usize, elapsed: Duration) -> Value {
    let (stop, token) = match answer.generated.stop {
        Stop::End(token) => ("end", Some(token)),
        Stop::MaxTokens => ("max_tokens", None),
        Stop::Context => ("context", None),
        Stop::Interrupted => ("interrupted", None),
    };
    json!({
        "text": answer.text,
        "tokens": answer.generated.tokens,
        "stop": stop,
        "stop_token": token,
        "prompt_tokens": prompt_tokens,
        "seconds": elapsed.as_secs_f64(),
        "peak_memory_bytes": peak_memory_bytes(),
    })
}
