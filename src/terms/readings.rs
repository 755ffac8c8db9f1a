//! What crosses between data, readouts and objectives: plain numbers, no tensors.

use std::ops::Range;

/// What a readout says of the targets of a micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// log p of each target in its order, nats.
    pub values: Vec<f32>,
}

/// Derivative of a loss by each reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Slopes {
    /// The same for all.
    Same(f32),
    /// One a reading, in their order.
    Each(Vec<f32>),
}

/// What is judged as one and so stays in one micro-batch: a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its targets among those of the batch; none where no token of it is trained.
    pub targets: Range<usize>,
}
