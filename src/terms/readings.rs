//! Plain numbers, not tensors, that data, readouts and objectives exchange.

use std::ops::Range;

/// Values of a readout at the targets of a micro-batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// Log-probability of each target, in order, nats; or the scores of each target of a score
    /// head, one after the other.
    pub values: Vec<f32>,
    /// Mean log-probability of all tokens of the vocabulary at each target, nats; empty unless
    /// labels are smoothed.
    pub means: Vec<f32>,
    /// Divergence from a teacher at each target, nats; empty where there is none.
    pub divergences: Vec<f32>,
}

impl Readings {
    /// Makes readings of one kind alone.
    pub fn of_values(values: Vec<f32>) -> Self {
        Self {
            values,
            ..Self::default()
        }
    }
}

/// The most likely next tokens under a teacher, for each of some targets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopTokens {
    /// The number of tokens of a target.
    pub each: usize,
    /// Their ids, no id twice for a target.
    pub ids: Vec<u32>,
    /// Their log-probabilities over the whole vocabulary, nats.
    pub log_p: Vec<f32>,
}

impl TopTokens {
    /// Returns the tokens of a range of targets.
    #[must_use]
    pub fn of_targets(&self, targets: Range<usize>) -> Self {
        let places = targets.start * self.each..targets.end * self.each;
        Self {
            each: self.each,
            ids: self.ids[places.clone()].to_vec(),
            log_p: self.log_p[places].to_vec(),
        }
    }
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
    Tokens {
        /// The factor of their loss.
        weight: f32,
    },
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

/// The place after the last target of a text, and a hash of its tokens.
pub type TextEnd = (usize, u64);

impl Unit {
    /// Makes a unit of the trained tokens of one sequence.
    pub fn tokens(targets: Range<usize>) -> Self {
        Self::weighted_tokens(targets, 1.0)
    }

    /// Makes a unit of the trained tokens of one sequence whose loss has a factor.
    pub fn weighted_tokens(targets: Range<usize>, weight: f32) -> Self {
        Self {
            targets,
            kind: UnitKind::Tokens { weight },
        }
    }

    /// Returns the number of targets whose likelihood a supervised loss raises: those of the chosen
    /// sequence, or all.
    pub fn supervised_targets(&self) -> usize {
        match self.kind {
            UnitKind::Pair { rejected, .. } => rejected - self.targets.start,
            UnitKind::Tokens { .. }
            | UnitKind::Rated { .. }
            | UnitKind::Texts(_)
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
    /// One sequence whose loss has a factor other than 1.
    Weighted {
        /// The bits of the factor in f32.
        bits: u32,
    },
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
    /// Texts, laid end to end. Of each the first token is not trained, and all others are.
    Texts,
    /// One sequence with a label.
    Labeled {
        /// How many numbers follow: the label.
        values: u32,
        /// The first token of the second type, which the second of two texts has; the number of
        /// tokens where all are of one type.
        second: u32,
    },
    /// One sequence with a class for each of its trained tokens.
    Tagged {
        /// How many numbers follow: one for each trained token.
        values: u32,
    },
}

impl RowForm {
    /// Returns the form of one sequence whose loss has this factor.
    pub fn weighted(weight: f32) -> Self {
        let bits = weight.to_bits();
        if bits == 1_f32.to_bits() {
            Self::Single
        } else {
            Self::Weighted { bits }
        }
    }

    /// Returns the factor of the row's loss.
    pub fn weight(self) -> f32 {
        match self {
            Self::Weighted { bits } => f32::from_bits(bits),
            _ => 1.0,
        }
    }
}
