//! Plain numbers, not tensors, that data, readouts and objectives exchange.

use std::ops::Range;

/// Values of a readout at the targets of a micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// Log-probability of each target, in order, nats.
    pub values: Vec<f32>,
}

/// Derivatives of a loss with respect to the readings.
#[derive(Debug, Clone, PartialEq)]
pub enum Slopes {
    /// The same derivative for all readings.
    Same(f32),
    /// One derivative per reading, in order.
    Each(Vec<f32>),
}

/// A row, which a loss judges as a whole and which stays in one micro-batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its targets among those of the batch; empty if no token is trained.
    pub targets: Range<usize>,
}
