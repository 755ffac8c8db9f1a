//! What the loop is handed: every value is filled, none has a default here.

use std::ops::Range;

use super::optimizer::AdamWConfig;
use super::schedule::Schedule;
use super::step::StepConfig;
use crate::data::shuffled;
use crate::terms::OnNonfinite;

/// Everything that decides a run beside the model, the adapter and the rows.
#[derive(Debug, Clone)]
pub struct Config {
    /// Rows of a micro-batch.
    pub micro_batch_size: usize,
    /// Micro-batches of an optimizer step.
    pub gradient_accumulation_steps: usize,
    /// The learning rate of each step, and how many there are.
    pub schedule: Schedule,
    /// AdamW's hyperparameters.
    pub optimizer: AdamWConfig,
    /// Global L2 norm to which gradients are clipped; 0: not at all.
    pub max_grad_norm: f64,
    /// How a micro-batch is computed.
    pub step: StepConfig,
    /// What a loss or gradient that is not finite leads to.
    pub on_nonfinite: OnNonfinite,
    /// Seed of the order of rows and of dropout.
    pub seed: u64,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// Optimizer steps between evaluations; 0: at the ends of epochs.
    pub eval_steps: u64,
    /// Evaluations without a better loss after which the run ends; 0: never.
    pub early_stopping_patience: u64,
    /// Optimizer steps between checkpoints; 0: at the ends of epochs and every five minutes.
    pub save_steps: u64,
    /// Checkpoints that are kept.
    pub save_total_limit: usize,
}

/// Rows of one optimizer step.
#[derive(Debug, PartialEq, Eq)]
pub struct StepRows {
    /// From 0.
    pub epoch: u64,
    /// Places in the epoch's order; the last step of an epoch may have fewer.
    pub places: Range<usize>,
}

impl Config {
    /// Optimizer steps that see every row once.
    pub fn steps_per_epoch(&self, rows: usize) -> u64 {
        rows.div_ceil(self.rows_per_step()) as u64
    }

    fn rows_per_step(&self) -> usize {
        self.micro_batch_size * self.gradient_accumulation_steps
    }

    /// The rows of the step after `place` rows of `epoch`. Behind the last row the next epoch begins.
    pub fn rows_after(&self, epoch: u64, place: u64, rows: usize) -> StepRows {
        let done = usize::try_from(place).unwrap_or(usize::MAX);
        let (epoch, start) = if done >= rows { (epoch + 1, 0) } else { (epoch, done) };
        StepRows { epoch, places: start..(start + self.rows_per_step()).min(rows) }
    }

    /// The order of rows in an epoch, a pure function of seed and epoch.
    pub fn order(&self, epoch: u64, rows: usize) -> Vec<u32> {
        if self.shuffle { shuffled(self.seed, epoch, rows) } else { (0..).take(rows).collect() }
    }
}
