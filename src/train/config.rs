//! What the loop is handed: every value is filled, none has a default here.

use super::micro_batch::StepConfig;
use super::optimizer::OptimizerConfig;
use super::schedule::Schedule;
use crate::data::Packing;
use crate::objective::Objective;
use crate::terms::OnNonfinite;

/// Everything that decides a run beside the model, the adapter and the rows.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// Rows of a micro-batch, or packs of rows.
    pub micro_batch_size: usize,
    /// Whether short rows share a pack.
    pub packing: Packing,
    /// Micro-batches of an optimizer step.
    pub gradient_accumulation_steps: usize,
    /// The learning rate of each step, and how many there are.
    pub schedule: Schedule,
    /// The optimizer and its hyperparameters.
    pub optimizer: OptimizerConfig,
    /// Global L2 norm to which gradients are clipped; 0: not at all.
    pub max_grad_norm: f64,
    /// What is minimized.
    pub objective: Objective,
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
