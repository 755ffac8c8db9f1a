//! What the model says to the recipe's prompts at an evaluation, so that a person sees it learn.
//! Nothing of it reaches the training.

use super::evaluate::Stopped;
use crate::model::Decoder;
use crate::report::{Event, Reporter, Sample};

/// The prompts of a run and what answers them. To speak is not the loop's business, so whoever
/// starts the run brings that.
pub struct Prompts<'a> {
    /// The prompts, in the recipe's order.
    pub texts: &'a [String],
    /// What the decoder as it is says to the prompt at a place.
    pub answer: &'a dyn Fn(&Decoder, usize) -> Answer,
}

/// What came of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A text.
    Text(String),
    /// Nothing, and why.
    Failed(String),
    /// It was told to stop.
    Stopped,
}

impl std::fmt::Debug for Prompts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompts")
            .field("texts", &self.texts)
            .finish_non_exhaustive()
    }
}

/// An answer to each prompt. One that there is none to is told and left out: it is the training
/// that counts.
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
                let note = format!(
                    "`evaluation.prompts.{place}` has no answer at step {step}: \
                {why}"
                );
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
