//! The training loop and its parts. Start reading at [`run`].

mod balance;
mod checkpoint;
mod compare;
mod config;
#[cfg(test)]
mod crash_points;
mod evaluate;
mod evaluate_texts;
mod gradients;
mod layout;
mod loss_scale;
mod micro_batch;
mod noise;
mod observe;
mod optimizer;
mod pool;
mod resume;
mod run;
mod sampler;
mod samples;
mod schedule;
mod state;
mod step;
mod tree;
mod walk;

pub use checkpoint::{Product, RunFolder};
pub use compare::{Compared, compare};
pub use config::TrainConfig;
pub use evaluate::Score;
pub use gradients::Gradients;
pub use loss_scale::LossScale;
pub use micro_batch::{
    Goal, Loss, StepConfig, forward_backward, head_chunk_rows, judged_backward, log_p_of_units,
    noised_backward, readings_of, score, top_tokens,
};
pub use observe::{Border, Observer};
pub use optimizer::{
    Adafactor, AdamW, AdamWConfig, AdjustLr, Average, ByShape, Muon, Optimizer, OptimizerConfig,
    Rule, STACK, Saved,
};
pub use pool::{pooled_backward, vectors_of};
pub use resume::{Checkpoint, Start};
pub use run::{Data, first_step, run};
pub use sampler::{StepRows, StepSampler};
pub use samples::Prompts;
pub use schedule::{RateCourse, Schedule, WarmupStableDecay};
pub use state::State;
pub use step::{Accumulated, At, StepOutcome, Update, accumulate, statistics};
pub use walk::Memory;

use std::path::{Path, PathBuf};

use crate::fault::{Exit, Explain, shell_word};
use crate::{adapter, files, model};

fn kept(checkpoint: Option<&Path>) -> String {
    checkpoint.map_or_else(String::new, |path| {
        format!(", those before it are in `{}`", path.display())
    })
}

fn row_of(steps: u64) -> String {
    if steps > 1 {
        format!(", the last of {steps} such steps in a row")
    } else {
        String::new()
    }
}

fn into_block(block: Option<usize>) -> String {
    block.map_or_else(String::new, |block| {
        format!(", first into `model.layers.{block}` on the way back")
    })
}

/// Returns what of a step is not finite: its loss or gradients, or else the weights after it.
fn not_finite(loss: f64, grad_norm: f64, block: Option<usize>) -> &'static str {
    if loss.is_finite() && grad_norm.is_finite() && block.is_none() {
        "new weights"
    } else {
        "loss or gradients"
    }
}

/// Describes checkpoints none of which is whole.
pub fn all_corrupted(checkpoints: usize, place: &str) -> String {
    if checkpoints == 1 {
        format!("the only checkpoint{place} is incomplete or corrupted")
    } else {
        format!("all {checkpoints} checkpoints{place} are incomplete or corrupted")
    }
}

/// The error of a run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss, gradient or new weight was not finite; the weights are those of the step before.
    #[error(
        "non-finite {} at step {step} (loss {loss}, gradient norm {grad_norm}{}){}; weights were \
        not updated{}",
        not_finite(*loss, *grad_norm, *block),
        into_block(*block),
        row_of(*in_a_row),
        kept(checkpoint.as_deref())
    )]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// Steps in a row, this one included, that failed so.
        in_a_row: u64,
        /// Mean loss, nats.
        loss: f64,
        /// Global L2 norm.
        grad_norm: f64,
        /// The block at which backward first met a gradient that was not finite, where that was
        /// checked.
        block: Option<usize>,
        /// The checkpoint of the weights, if a step changed them.
        checkpoint: Option<PathBuf>,
    },
    /// Every step was skipped, or no validation loss after one was finite.
    #[error(
        "none of {steps} steps left anything to keep: their losses, gradients or validation \
        losses were not finite"
    )]
    NothingLearned {
        /// Number of steps taken.
        steps: u64,
    },
    /// The first loss is not that of a policy that is its reference.
    #[error(
        "the first loss is {loss}, expected {expected}: training starts at its reference, and the \
        two do not agree; weights were not saved"
    )]
    NotTheReference {
        /// The loss of the first step.
        loss: f64,
        /// The loss where policy and reference are the same.
        expected: f64,
    },
    /// The run was told to stop.
    #[error(
        "stopped at step {step}: {}",
        if *step > 0 {
            "everything up to it is saved"
        } else {
            "nothing is lost, because no step was taken"
        }
    )]
    Stopped {
        /// Number of steps taken.
        step: u64,
        /// The run's folder.
        run: PathBuf,
    },
    /// There are checkpoints, but none of them is whole.
    #[error("{}", all_corrupted(*checkpoints, &format!(" in `{}`", run.display())))]
    NoneWhole {
        /// The run's folder.
        run: PathBuf,
        /// Number of checkpoints.
        checkpoints: usize,
    },
    /// A checkpoint belongs to other weights than those that train.
    #[error(
        "tensor `{tensor}` of `{}` has shape {}, expected {expected:?}",
        path.display(),
        found.as_ref().map_or_else(|| "none".to_owned(), |found| format!("{found:?}"))
    )]
    Moments {
        /// The optimizer's file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor's shape, if it is there.
        found: Option<Vec<usize>>,
        /// The shape of its weight.
        expected: Vec<usize>,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A safetensors file could not be written.
    #[error(transparent)]
    Safetensors(#[from] files::safetensors::SafetensorsError),
    /// The adapter could not be written.
    #[error(transparent)]
    Adapter(#[from] adapter::AdapterError),
    /// The model could not be written.
    #[error(transparent)]
    Model(#[from] model::ModelError),
}

impl Explain for TrainError {
    fn exit(&self) -> Exit {
        match self {
            Self::Diverged { .. } | Self::NothingLearned { .. } => Exit::Diverged,
            Self::NoneWhole { .. } | Self::Moments { .. } => Exit::Input,
            Self::NotTheReference { .. } => Exit::Internal,
            Self::Stopped { step: 0, .. } => Exit::Signal,
            Self::Stopped { .. } => Exit::Interrupted,
            Self::File(error) => error.exit(),
            Self::Safetensors(error) => error.exit(),
            Self::Adapter(error) => error.exit(),
            Self::Model(error) => error.exit(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Diverged { in_a_row: 2.., .. } => Some(
                "lower `training.learning_rate` or add `training.warmup_steps`, and start over"
                    .into(),
            ),
            Self::Diverged { .. } => Some(
                "lower `training.learning_rate`, add `training.warmup_steps`, or set \
                `training.on_nonfinite: skip`"
                    .into(),
            ),
            Self::NothingLearned { .. } => Some(
                "lower `training.learning_rate` or add `training.warmup_steps`; if step 1 \
                fails too, look at the base and the data"
                    .into(),
            ),
            Self::NoneWhole { .. } => Some(
                "copy one back from where it is whole, or start from step 0 with `--force`, \
                which loses what was trained"
                    .into(),
            ),
            Self::NotTheReference { .. } => Some(
                "remove the token cache with `rankine cache`, and start over; if that changes \
                nothing, please report it"
                    .into(),
            ),
            Self::Moments { .. } => {
                Some("the run was started on another base, or its files were mixed up".into())
            }
            Self::Stopped { run, .. } => Some(format!(
                "go on with `rankine resume {}`",
                shell_word(&run.display().to_string())
            )),
            Self::File(error) => error.hint(),
            Self::Safetensors(error) => error.hint(),
            Self::Adapter(error) => error.hint(),
            Self::Model(error) => error.hint(),
        }
    }
}
