//! Plain numbers, not tensors, that data, readouts and objectives exchange.

use std::ops::Range;

/// Values of a readout at the targets of a micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// Log-probability of each target, in order, nats; or the scores of each target of a score
    /// head, one after the other.
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
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Its targets among those of the batch; empty if no token is trained.
    pub targets: Range<usize>,
    /// The meaning of its targets.
    pub kind: UnitKind,
}

/// The meaning of a unit's targets.
#[derive(Debug, Clone, PartialEq)]
pub enum UnitKind {
    /// Trained tokens of one sequence.
    Tokens,
    /// A chosen and a rejected sequence with the same prompt.
    Pair {
        /// The first target of the chosen completion. Those before it are of the prompt, for losses
        /// that read it.
        completion: usize,
        /// The first target of the rejected completion; it ends with the unit.
        rejected: usize,
        /// Log-probability of each completion under the reference, nats; 0 without one.
        reference: [f64; 2],
    },
    /// A completion with a label.
    Rated {
        /// Whether the completion is desirable.
        desirable: bool,
        /// Log-probability of the completion under the reference, nats; 0 without one.
        reference: f64,
    },
    /// A chosen and a rejected sequence with a target each, which are scored.
    Compared {
        /// By how much the chosen score is to exceed the rejected one.
        margin: f64,
    },
    /// A sequence that is scored, or tokens of one that are.
    Labeled {
        /// The class of each target, or the numbers that its scores are to meet.
        values: Vec<f32>,
    },
}

impl Unit {
    /// Makes a unit of the trained tokens of one sequence.
    pub fn tokens(targets: Range<usize>) -> Self {
        Self {
            targets,
            kind: UnitKind::Tokens,
        }
    }

    /// Returns the number of targets whose likelihood a supervised loss raises: those of the chosen
    /// sequence, or all.
    pub fn supervised_targets(&self) -> usize {
        match self.kind {
            UnitKind::Pair { rejected, .. } => rejected - self.targets.start,
            UnitKind::Tokens
            | UnitKind::Rated { .. }
            | UnitKind::Compared { .. }
            | UnitKind::Labeled { .. } => self.targets.len(),
        }
    }
}

/// The form of a row of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowForm {
    /// One sequence.
    #[default]
    Single,
    /// Two sequences, laid end to end: a chosen and a rejected completion of the same prompt.
    Pair {
        /// Tokens of the chosen sequence.
        chosen: u32,
        /// Whether a number follows: by how much the chosen score is to exceed the rejected one.
        has_margin: bool,
    },
    /// One sequence whose completion has a label.
    Rated {
        /// Whether the completion is desirable.
        desirable: bool,
    },
    /// One sequence with a label.
    Labeled {
        /// How many numbers follow: the label.
        values: u32,
    },
    /// One sequence with a class for each of its trained tokens.
    Tagged {
        /// How many numbers follow: one for each trained token.
        values: u32,
    },
}
