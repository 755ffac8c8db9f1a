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
    /// Texts that become a vector each: an anchor, a positive and negatives. The targets of each
    /// end where those of the next begin.
    Texts(Vec<TextEnd>),
}

/// The place after the last target of a text, and a hash of its tokens.
pub type TextEnd = (usize, u64);

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
            UnitKind::Tokens | UnitKind::Rated { .. } | UnitKind::Texts(_) => self.targets.len(),
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
    },
    /// One sequence whose completion has a label.
    Rated {
        /// Whether the completion is desirable.
        desirable: bool,
    },
    /// Texts, laid end to end. Of each the first token is not trained, and all others are.
    Texts,
}
