//! Events of a run as plain numbers and strings, and the sinks that show them to people and
//! programs.
//!
//! The library never prints: it hands an [`Event`] to a `&dyn Fn(Event)`.

mod digits;
mod jsonl;
mod memory;
#[cfg(feature = "tensorboard")]
mod tensorboard;
#[cfg(not(feature = "tensorboard"))]
#[path = "no_tensorboard.rs"]
mod tensorboard;
mod terminal;
mod transfer;

pub use digits::grouped;
pub use jsonl::JsonLines;
pub use memory::{free_memory_bytes, mebibytes, peak_memory_bytes};
pub use tensorboard::TensorBoard;
pub use terminal::{Terminal, say_now};
pub use transfer::Transfer;

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Receiver of events. Long operations take one and call it as they go.
pub type Reporter<'a> = &'a dyn Fn(Event);

/// An event during a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Progress of a part of the work before training, such as reading or tokenizing.
    Progress {
        /// Name of the work, such as `tokenizing medical-glossary.parquet`.
        what: String,
        /// Units done.
        done: u64,
        /// Units in total; 0 if unknown.
        total: u64,
    },
    /// Progress of a download or an upload.
    Transfer(Transfer),
    /// A line for the user.
    Line(String),
    /// A note for the user that stops nothing.
    Note(String),
    /// Training starts.
    Started {
        /// Optimizer steps taken before.
        step: u64,
        /// Optimizer steps in total.
        steps: u64,
    },
    /// The work whose progress was shown has ended.
    Ended,
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
    /// Mean loss before the update, nats: cross-entropy per trained token, or the loss of a pair or
    /// of a completion with a label.
    pub loss: f64,
    /// Figures of the objective beside the loss, under TRL's names.
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
    /// The learning rate that the update used.
    pub learning_rate: f64,
    /// Global L2 norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of this step, padding excluded.
    pub tokens: u64,
    /// Tokens of this step that carried a loss.
    pub trained_tokens: u64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Peak resident memory of the process so far; `None` if the system does not report it.
    pub peak_memory_bytes: Option<u64>,
    /// Peak GPU memory held so far; `None` on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_peak_memory_bytes: Option<u64>,
    /// Whether the update was skipped because a loss or gradient was not finite.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// The score of an adapter on the validation rows.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Optimizer steps taken so far; 0 before the first.
    pub step: u64,
    /// Mean loss, nats: cross-entropy per trained token, or the loss of a pair or of a completion
    /// with a label.
    pub eval_loss: f64,
    /// `exp(eval_loss)` of cross-entropy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_perplexity: Option<f64>,
    /// Mean over the trained tokens that do not end a turn or a document.
    pub eval_loss_content: Option<f64>,
    /// Mean over the trained tokens that end a turn or a document.
    pub eval_loss_end_of_turn: Option<f64>,
    /// Figures of the objective beside the loss, under TRL's names after `eval_`.
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
    /// How often each class was taken for each: a row for each true class; or for each label two
    /// rows, where it does not hold and where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_confusion: Option<Vec<Vec<u64>>>,
}

/// Answer of the current model to a prompt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// Optimizer steps taken so far; 0 before the first.
    pub step: u64,
    /// Index of the prompt in the recipe, from 0.
    #[serde(skip)]
    pub place: usize,
    /// Text of the prompt.
    pub prompt: String,
    /// Text of the answer.
    pub text: String,
}
