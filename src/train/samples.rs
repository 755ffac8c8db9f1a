//! The model's answers to the recipe's prompts at an evaluation, so that a person sees it learn.
//! They do not affect the training.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::evaluate::Stopped;
use crate::infer::{Answerer, SamplePrompt};
use crate::model::Decoder;
use crate::report::{Event, Reporter, Sample};

/// The prompts of a run, and what answers them.
#[derive(Debug)]
pub struct Prompts<'a> {
    /// The prompts, in the recipe's order.
    pub prompts: &'a [SamplePrompt],
    /// Answers them with the tokenizer and the template of the run.
    pub answerer: Answerer<'a>,
}

/// Returns an answer to each prompt. A prompt without an answer is reported and left out, because
/// the training matters more.
pub(super) fn samples(
    decoder: &Decoder,
    prompts: Option<&Prompts>,
    step: u64,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Vec<Sample>, Stopped> {
    let Some(Prompts { prompts, answerer }) = prompts else {
        return Ok(Vec::new());
    };
    let mut samples = Vec::new();
    for (place, prompt) in prompts.iter().enumerate() {
        match answerer.answer(decoder, prompt, || interrupt.load(Relaxed)) {
            Ok(Some(text)) => samples.push(Sample {
                step,
                place,
                prompt: prompt.text.clone(),
                text,
            }),
            Ok(None) => return Err(Stopped),
            Err(why) => {
                let note =
                    format!("`evaluation.prompts.{place}` has no answer at step {step}: {why}");
                report(Event::Note(note));
            }
        }
        report(Event::Progress {
            what: "answering".to_owned(),
            done: place as u64 + 1,
            total: prompts.len() as u64,
        });
    }
    Ok(samples)
}
