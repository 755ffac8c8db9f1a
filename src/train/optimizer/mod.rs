//! The optimizers: their states and update rules.
//!
//! `AdamW` updates flat rows of all numbers with kernels of its own. All other rules update weights
//! of one shape at a time, see [`by_shape`], with operations that every device has.

mod adafactor;
mod adamw;
mod by_shape;
mod config;
mod muon;
mod rules;
mod saved;

pub use adamw::{AdamW, AdamWConfig};
pub use by_shape::{Average, ByShape, STACK};
pub use config::{Adafactor, AdjustLr, Muon, OptimizerConfig, Rule};
pub use saved::Saved;

use super::gradients::Gradients;
use crate::model::Decoder;

/// The optimizer of a run, with its state.
#[allow(clippy::large_enum_variant, reason = "one a run")]
#[derive(Debug)]
pub enum Optimizer {
    /// `AdamW` with moments of 32 bits.
    AdamW(AdamW),
    /// Every other rule.
    ByShape(ByShape),
}

impl Optimizer {
    /// Makes the optimizer before the first update.
    pub fn new(config: OptimizerConfig, decoder: &Decoder) -> Self {
        match config.rule {
            Rule::AdamW => Self::AdamW(AdamW::new(config.adamw, decoder)),
            _ => Self::ByShape(ByShape::new(config, decoder)),
        }
    }

    /// Returns the number of updates made.
    pub fn updates(&self) -> u64 {
        match self {
            Self::AdamW(adamw) => adamw.updates,
            Self::ByShape(by_shape) => by_shape.updates(),
        }
    }

    /// Returns the learning rate of the next update, given the schedule's.
    pub fn learning_rate(&self, scheduled: f64) -> f64 {
        match self {
            Self::AdamW(_) => scheduled,
            Self::ByShape(by_shape) => by_shape.learning_rate(scheduled),
        }
    }

    /// Updates every weight, or none: `false` if a weight or a state would not be finite, or if
    /// there are no gradients.
    #[must_use]
    pub fn update(
        &mut self,
        decoder: &mut Decoder,
        gradients: Gradients,
        learning_rate: f64,
    ) -> bool {
        let Some(gradients) = gradients.into_sum() else {
            return false;
        };
        match self {
            Self::AdamW(adamw) => adamw.update_by(decoder, gradients, learning_rate),
            Self::ByShape(by_shape) => by_shape.update(decoder, gradients, learning_rate),
        }
    }

    /// Gives the decoder the weights to score and save: for a schedule-free optimizer their
    /// average. Does nothing where the decoder has them.
    pub fn rest(&mut self, decoder: &mut Decoder) {
        if let Self::ByShape(by_shape) = self {
            by_shape.rest(decoder);
        }
    }

    /// Gives the decoder the weights at which gradients are taken.
    pub fn go_on(&mut self, decoder: &mut Decoder) {
        if let Self::ByShape(by_shape) = self {
            by_shape.go_on(decoder);
        }
    }

    /// Returns the state of a schedule-free optimizer's average.
    pub fn average(&self) -> Option<Average> {
        match self {
            Self::AdamW(_) => None,
            Self::ByShape(by_shape) => by_shape.average(),
        }
    }
}
