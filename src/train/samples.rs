//! The model's answers to the recipe's prompts at an evaluation, so that a person sees it learn.
//! They do not affect the training.

use super::evaluate::Stopped;
use crate::model::Decoder;
use crate::report::{Event, Reporter, Sample};

/// The prompts of a run, and the function that answers them. Generation is not a part of the loop,
/// so the caller provides it.
pub struct Prompts<'a> {
    /// The prompts, in the recipe's order.
    pub texts: &'a [String],
    /// Returns the answer of the current decoder to the prompt at an index.
    pub answer: &'a dyn Fn(&Decoder, usize) -> Answer,
}

/// The answer to a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A text.
    Text(String),
    /// No answer, with the reason.
    Failed(String),
    /// The generation was told to stop.
    Stopped,
}

impl std::fmt::Debug for Prompts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompts")
            .field("texts", &self.texts)
            .finish_non_exhaustive()
    }
}

/// Returns an answer to each prompt. A prompt without an answer is reported and left out, because
/// the training matters more.
pub(super) fn samples(
    decoder: &Decoder,
    prompts: Option<&Prompts>,
    step: u64,
    report: Reporter,
) -> Result<Vec<Sample>, Stopped> {
    let Some(Prompts { texts, answer }) = prompts else {
        return Ok(Vec::new());
    };
    let mut samples = Vec::new();
    for (place, prompt) in texts.iter().enumerate() {
        match answer(decoder, place) {
            Answer::Text(text) => samples.push(Sample {
                step,
                place,
                prompt: prompt.clone(),
                text,
            }),
            Answer::Failed(why) => {
                let note =
                    format!("`evaluation.prompts.{place}` has no answer at step {step}: {why}");
                report(Event::Note(note));
            }
            Answer::Stopped => return Err(Stopped),
        }
        report(Event::Progress {
            what: "answering".to_owned(),
            done: place as u64 + 1,
            total: texts.len() as u64,
        });
    }
    Ok(samples)
}
