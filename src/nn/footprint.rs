//! The units in which memory is estimated before anything is loaded: rows of a micro-batch, and
//! projections that share an input, with what trains of them. What a mechanism keeps for its
//! backward stands beside its forward, in functions named `saved_bytes`.

/// Bytes of a 32-bit number.
pub const F32: u64 = 4;

/// Size of the rows of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowShape {
    /// Tokens of all rows.
    pub tokens: u64,
    /// Bytes per number passed from layer to layer.
    pub number_bytes: u64,
    /// Whether adapters have dropout.
    pub drops: bool,
    /// Whether a GPU computes.
    pub on_gpu: bool,
}

impl RowShape {
    /// Returns the bytes of so many numbers per token.
    pub fn bytes(self, numbers: u64) -> u64 {
        self.tokens * numbers * self.number_bytes
    }
}

/// Projections that share an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectionGroup {
    /// Numbers of the input per token; 0 where another mechanism keeps it.
    pub inputs: u64,
    /// Sum of the ranks of their adapters, numbers per token.
    pub ranks: u64,
    /// Number of outputs that magnitudes scale.
    pub scaled: u64,
    /// Whether their own weights train.
    pub trains: bool,
}

/// Trained parts of some projections, one entry per projection in checkpoint order.
#[derive(Debug, Clone, Copy)]
pub struct TrainedMaps<'a> {
    /// Ranks of their adapters; 0 without one.
    pub ranks: &'a [usize],
    /// Numbers of outputs.
    pub outputs: &'a [usize],
    /// Whether adapters have magnitudes.
    pub has_magnitudes: bool,
    /// Whether their own weights train.
    pub trains: bool,
}

impl TrainedMaps<'_> {
    /// Splits off the first `count`.
    ///
    /// # Panics
    /// There are fewer than `count`.
    pub fn split_at(self, count: usize) -> [Self; 2] {
        let ((ranks, other_ranks), (outputs, other_outputs)) =
            (self.ranks.split_at(count), self.outputs.split_at(count));
        [
            Self {
                ranks,
                outputs,
                ..self
            },
            Self {
                ranks: other_ranks,
                outputs: other_outputs,
                ..self
            },
        ]
    }

    /// Splits off the last one: the others give a mechanism its input, and the last one takes its
    /// output.
    pub fn split_last(self) -> [Self; 2] {
        self.split_at(self.ranks.len().saturating_sub(1))
    }

    /// Returns all of them as a group with one input.
    pub fn group(self, inputs: u64) -> ProjectionGroup {
        let is_scaled = self.has_magnitudes && self.ranks.iter().any(|rank| *rank > 0);
        let scaled = if is_scaled {
            self.outputs.iter().sum::<usize>() as u64
        } else {
            0
        };
        ProjectionGroup {
            inputs,
            ranks: self.ranks.iter().sum::<usize>() as u64,
            scaled,
            trains: self.trains,
        }
    }
}
