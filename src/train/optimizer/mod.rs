//! The optimizers: what each keeps of the weights that train, and what it makes of their gradients.
//!
//! `AdamW` goes over flat rows of all numbers by kernels of its own. All others go over weights of
//! one shape at a time, see [`by_shape`], by operations that every device has.

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
    /// The state before the first update.
    pub fn new(config: OptimizerConfig, decoder: &Decoder) -> Self {
        match config.rule {
            Rule::AdamW => Self::AdamW(AdamW::new(config.adamw, decoder)),
            _ => Self::ByShape(ByShape::new(config, decoder)),
        }
    }

    /// Updates made.
    pub fn updates(&self) -> u64 {
        match self {
            Self::AdamW(adamw) => adamw.updates,
            Self::ByShape(by_shape) => by_shape.updates(),
        }
    }

    /// The learning rate of the next update where the schedule has this one.
    pub fn learning_rate(&self, scheduled: f64) -> f64 {
        match self {
            Self::AdamW(_) => scheduled,
            Self::ByShape(by_shape) => by_shape.learning_rate(scheduled),
        }
    }

    /// One update of every weight, or of none: `false` if a weight or a state would not be finite,
    /// or there are no gradients.
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

    /// Gives the decoder the weights that are to be scored and saved: of a schedule-free optimizer
    /// their average. Nothing happens where it has them.
    pub fn rest(&mut self, decoder: &mut Decoder) {
        if let Self::ByShape(by_shape) = self {
            by_shape.rest(decoder);
        }
    }

    /// Gives the decoder the weights at which gradients are to be taken.
    pub fn go_on(&mut self, decoder: &mut Decoder) {
        if let Self::ByShape(by_shape) = self {
            by_shape.go_on(decoder);
        }
    }

    /// What a schedule-free optimizer averages by.
    pub fn average(&self) -> Option<Average> {
        match self {
            Self::AdamW(_) => None,
            Self::ByShape(by_shape) => by_shape.average(),
        }
    }
}
