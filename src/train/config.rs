//! The settings of the loop. Every value is given; none has a default here.

use super::micro_batch::StepConfig;
use super::optimizer::OptimizerConfig;
use super::schedule::Schedule;
use crate::data::Packing;
use crate::objective::Objective;
use crate::terms::OnNonfinite;

/// Every setting of a run except the model, the adapter and the rows.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// Rows of a micro-batch, or packs of rows.
    pub micro_batch_size: usize,
    /// Whether short rows share a pack.
    pub packing: Packing,
    /// Micro-batches of an optimizer step.
    pub gradient_accumulation_steps: usize,
    /// The learning rate of each step, and the number of steps.
    pub schedule: Schedule,
    /// The optimizer and its hyperparameters.
    pub optimizer: OptimizerConfig,
    /// Global L2 norm to which gradients are clipped; 0: no clipping.
    pub max_grad_norm: f64,
    /// The objective.
    pub objective: Objective,
    /// The loss that the first step must have, where it is known: that of a policy that is its
    /// reference.
    pub first_loss: Option<f64>,
    /// Settings for computing a micro-batch.
    pub step: StepConfig,
    /// The response to a loss or gradient that is not finite.
    pub on_nonfinite: OnNonfinite,
    /// Seed of the order of rows and of dropout.
    pub seed: u64,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// Optimizer steps between evaluations; 0: at the ends of epochs.
    pub eval_steps: u64,
    /// Evaluations without a better loss after which the run ends; 0: it never ends early.
    pub early_stopping_patience: u64,
    /// Optimizer steps between checkpoints; 0: at the ends of epochs and every five minutes.
    pub save_steps: u64,
    /// Number of checkpoints to keep.
    pub save_total_limit: usize,
}
