//! What memory is counted by, before anything is loaded: rows of a micro-batch, and projections of
//! one input with what trains of them. What a mechanism keeps for its backward stands beside its
//! forward, in functions named `saved_bytes`.

/// Bytes of a number in 32 bits.
pub const F32: u64 = 4;

/// Rows of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowShape {
    /// Tokens of all rows.
    pub tokens: u64,
    /// Bytes of a number that goes from layer to layer.
    pub number_bytes: u64,
    /// Whether adapters drop features of their input.
    pub drops: bool,
}

impl RowShape {
    /// Bytes of so many numbers a token.
    pub fn bytes(self, numbers: u64) -> u64 {
        self.tokens * numbers * self.number_bytes
    }
}

/// Projections that share an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectionGroup {
    /// Numbers of the input, a token; 0 where another mechanism keeps it.
    pub inputs: u64,
    /// Sum of the ranks of their adapters, a token.
    pub ranks: u64,
    /// Outputs that magnitudes scale.
    pub scaled: u64,
    /// Whether their own weights train.
    pub trains: bool,
}

/// What trains of some projections, one entry each in checkpoint order.
#[derive(Debug, Clone, Copy)]
pub struct TrainedMaps<'a> {
    /// Ranks of their adapters; 0 without one.
    pub ranks: &'a [usize],
    /// Their outputs.
    pub outputs: &'a [usize],
    /// Whether adapters have magnitudes.
    pub has_magnitudes: bool,
    /// Whether their own weights train.
    pub trains: bool,
}

impl TrainedMaps<'_> {
    /// The first `count`, and the others.
    ///
    /// # Panics
    /// There are fewer.
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

    /// All but the last, and the last: those that give a mechanism its input, and the one that
    /// takes its output.
    pub fn split_last(self) -> [Self; 2] {
        self.split_at(self.ranks.len().saturating_sub(1))
    }

    /// All of them on one input.
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
