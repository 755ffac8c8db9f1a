//! What happened, as plain numbers and strings, and the sinks that show it to people and programs.
//!
//! The library never prints: it hands an [`Event`] to a `&dyn Fn(Event)`.

mod jsonl;
mod memory;
#[cfg(feature = "tensorboard")]
mod tensorboard;
#[cfg(not(feature = "tensorboard"))]
#[path = "no_tensorboard.rs"]
mod tensorboard;
mod terminal;
mod transfer;

pub use jsonl::JsonLines;
pub use memory::{free_memory_bytes, mebibytes, peak_memory_bytes};
pub use tensorboard::TensorBoard;
pub use terminal::{Terminal, say_now};
pub use transfer::Transfer;

use std::path::PathBuf;

/// A receiver of events; long work takes one and calls it as it goes.
pub type Reporter<'a> = &'a dyn Fn(Event);

/// Something that happened during a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A part of the work before training moved on, such as reading or tokenizing.
    Progress {
        /// What is being done, such as `tokenizing medical-glossary.parquet`.
        what: String,
        /// Units done.
        done: u64,
        /// Units in all; 0 where that is not known.
        total: u64,
    },
    /// Bytes came from the network or went there.
    Transfer(Transfer),
    /// Something that a person should know and that stops nothing.
    Note(String),
    /// An optimizer step was taken.
    Step(Step),
    /// The adapter was scored on the validation rows.
    Evaluated(Evaluation),
    /// A prompt was answered.
    Sampled(Sample),
    /// A checkpoint was written.
    Saved {
        /// Its folder.
        path: PathBuf,
        /// Optimizer steps taken so far.
        step: u64,
    },
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Step {
    /// Optimizer steps taken, from 1.
    pub step: u64,
    /// Passes over the data at the end of this step, as a fraction.
    pub epoch: f64,
    /// Mean cross-entropy per trained token before the update, nats.
    pub loss: f64,
    /// The learning rate that the update used.
    pub learning_rate: f64,
    /// Global L2 norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of this step, padding excluded.
    pub tokens: u64,
    /// Tokens of this step that carried a loss.
    pub trained_tokens: u64,
    /// Tokens a second of this step.
    pub tokens_per_second: f64,
    /// Highest resident memory of the process so far; `None` where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// The most memory of a GPU that was held so far; `None` on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_peak_memory_bytes: Option<u64>,
    /// Whether the update was left out because a loss or gradient was not finite.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// The score of an adapter on the validation rows.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Optimizer steps taken so far; 0 before the first.
    pub step: u64,
    /// Mean cross-entropy per trained token, nats.
    pub eval_loss: f64,
    /// `exp(eval_loss)`.
    pub eval_perplexity: f64,
    /// Mean over the trained tokens that do not end a turn or a document.
    pub eval_loss_content: Option<f64>,
    /// Mean over the trained tokens that end a turn or a document.
    pub eval_loss_end_of_turn: Option<f64>,
}

/// What the model as it is says to a prompt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// Optimizer steps taken so far; 0 before the first.
    pub step: u64,
    /// Place of the prompt in the recipe, from 0.
    #[serde(skip)]
    pub place: usize,
    /// What was asked.
    pub prompt: String,
    /// What was answered.
    pub text: String,
}
