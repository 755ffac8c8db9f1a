//! The training loop and its parts. Start reading at [`run`].

mod checkpoint;
mod config;
mod evaluate;
mod optimizer;
mod run;
mod schedule;
mod step;

pub use checkpoint::{RunFolder, State};
pub use config::Config;
pub use optimizer::{AdamW, AdamWConfig};
pub use run::{Data, run};
pub use schedule::Schedule;
pub use step::{Gradients, Loss, Memory, StepConfig, forward_backward, score};

use crate::fault::{Exit, Explain};
use crate::{adapter, files};

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A loss or gradient was not finite; the weights are those of the step before.
    #[error(
        "step {step} has loss {loss} and gradient norm {grad_norm}, expected finite numbers; the weights were not changed by it"
    )]
    Diverged {
        /// From 1.
        step: u64,
        /// Mean loss, nats.
        loss: f64,
        /// Global L2 norm.
        grad_norm: f64,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A safetensors file could not be written.
    #[error(transparent)]
    Safetensors(#[from] files::safetensors::Error),
    /// The adapter could not be written.
    #[error(transparent)]
    Adapter(#[from] adapter::Error),
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Diverged { .. } => Exit::Diverged,
            Self::File(error) => error.exit(),
            Self::Safetensors(error) => error.exit(),
            Self::Adapter(error) => error.exit(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Diverged { .. } => {
                Some("lower `training.learning_rate`, add `training.warmup_steps`, or set `training.on_nonfinite: skip`".into())
            }
            Self::File(error) => error.hint(),
            Self::Safetensors(error) => error.hint(),
            Self::Adapter(error) => error.hint(),
        }
    }
}
