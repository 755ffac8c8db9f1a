//! The training loop and its parts.

mod optimizer;
mod schedule;
mod step;

pub use optimizer::{AdamW, AdamWConfig};
pub use schedule::Schedule;
pub use step::{Gradients, Loss, Memory, StepConfig, forward_backward, score};
