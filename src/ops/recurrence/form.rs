//! The shape of a recurrence, and its gates: the decay of a state and the strength of a write.

use super::chunk::CHUNK;
use crate::ops::lanes::sum_of_products;
use crate::ops::simd::vectorised;

/// The way in which a token changes the state S of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// The gated delta rule, Yang et al. 2024, arXiv:2412.06464: S = e^g S + k β (v - (e^g S)ᵀ k)ᵀ.
    /// Queries and keys are normalized to length 1. Gates are b and a with β = σ(b) and g = -e^A
    /// softplus(a + d); vectors are A and d.
    Delta,
    /// Mamba 2, Dao and Gu 2024, arXiv:2405.21060: S = e^g S + k (β v)ᵀ, and D v is added to the
    /// output. The gate is x with β = softplus(x + d), at least `least` and at most `most`, and g =
    /// -e^A β; vectors are A, d and D.
    Sum {
        /// The least β.
        least: f32,
        /// The greatest β.
        most: f32,
    },
}

/// The shape of a recurrence over the tokens of a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecurrenceForm {
    /// The way in which a token changes the state.
    pub update: Update,
    /// Heads of queries and keys; divides `value_heads`.
    pub key_heads: usize,
    /// Heads of values, each of which has a state and gates of its own.
    pub value_heads: usize,
    /// Features of a query or key.
    pub key_dim: usize,
    /// Features of a value.
    pub value_dim: usize,
}

/// Numbers of a token and head in the table of a GPU's form.
pub(in crate::ops) const OF_HEAD: usize = 6;

/// ε of the lengths of queries and keys.
pub(in crate::ops) const LENGTH_EPSILON: f32 = 1e-6;

/// Gates of a token and head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    /// The logarithm g of the decay.
    pub log_decay: f32,
    /// The strength β of the write.
    pub write: f32,
}

/// Gradients of what a token's gates are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfGate {
    /// That of the gate a, or x.
    pub step: f32,
    /// That of the gate b, where there is one.
    pub write: f32,
    /// That of the vector A.
    pub rate: f32,
}

impl RecurrenceForm {
    /// Returns the number of features of all queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.values()
    }

    /// Returns the number of features of all values.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Returns the number of gates of a token.
    pub fn gates(&self) -> usize {
        match self.update {
            Update::Delta => 2 * self.value_heads,
            Update::Sum { .. } => self.value_heads,
        }
    }

    /// Returns the number of vectors, each with one number per head of values.
    pub fn vectors(&self) -> usize {
        match self.update {
            Update::Delta => 2,
            Update::Sum { .. } => 3,
        }
    }

    /// Returns the multiply-adds of a forward per token.
    pub fn multiply_adds(&self) -> usize {
        let (pair, both) = (self.key_dim * self.value_dim, self.key_dim + self.value_dim);
        let products = match self.update {
            Update::Delta => 3 * pair + 2 * CHUNK * both,
            Update::Sum { .. } => 2 * pair + CHUNK * both,
        };
        self.value_heads * products
    }

    /// Returns how many forwards a backward is worth: it makes the states again, then the chunk,
    /// and has two products for each of forward's.
    pub const BACKWARD: usize = 4;

    /// Returns the numbers per token, f32, that a backward on a GPU holds beside operands and
    /// gradients: what a head writes and its gradient, the gradients of queries and keys by head of
    /// values, a table of gates, and the states between chunks.
    pub fn gpu_scratch(&self) -> usize {
        let writes = match self.update {
            Update::Delta => 2 * self.values(),
            Update::Sum { .. } => self.values(),
        };
        let states = (self.key_dim * (self.value_dim + 1)).div_ceil(CHUNK);
        writes + self.value_heads * (2 * self.key_dim + OF_HEAD + states)
    }

    /// Returns the places of the first query, key and value in a token's features.
    pub(in crate::ops) fn offsets(&self) -> [usize; 3] {
        let keys = self.key_heads * self.key_dim;
        match self.update {
            Update::Delta => [0, keys, 2 * keys],
            Update::Sum { .. } => [self.values() + keys, self.values(), 0],
        }
    }

    /// Returns the factor that brings a query or key to length 1, or 1 where it stays as it is.
    pub(super) fn inverse_length(&self, row: &[f32]) -> f32 {
        match self.update {
            Update::Delta => 1.0 / (product_of(row, row) + LENGTH_EPSILON).sqrt(),
            Update::Sum { .. } => 1.0,
        }
    }

    /// Returns the factor of queries after that.
    pub(super) fn query_scale(&self) -> f32 {
        match self.update {
            Update::Delta => 1.0 / (self.key_dim as f32).sqrt(),
            Update::Sum { .. } => 1.0,
        }
    }

    /// Returns the factor D of a head's values in its output.
    pub(super) fn skip(&self, vectors: &[f32], head: usize) -> Option<f32> {
        match self.update {
            Update::Delta => None,
            Update::Sum { .. } => Some(vectors[2 * self.value_heads + head]),
        }
    }

    /// Returns the gates of a token and head, given all gates of the token.
    pub(super) fn gate(&self, gates: &[f32], vectors: &[f32], head: usize) -> Gate {
        let rate = vectors[head].exp();
        let step = softplus(self.step(gates, vectors, head));
        match self.update {
            Update::Delta => Gate {
                log_decay: -rate * step,
                write: sigmoid(gates[head]),
            },
            Update::Sum { least, most } => {
                let write = step.clamp(least, most);
                Gate {
                    log_decay: -rate * write,
                    write,
                }
            }
        }
    }

    /// Returns the gradients of what [`RecurrenceForm::gate`] is made of, given those of its
    /// result. The gradient of d is that of the step.
    pub(super) fn gate_gradient(
        &self,
        gates: &[f32],
        vectors: &[f32],
        head: usize,
        given: Gate,
    ) -> OfGate {
        let rate = vectors[head].exp();
        let argument = self.step(gates, vectors, head);
        let gate = self.gate(gates, vectors, head);
        let of_rate = given.log_decay * gate.log_decay;
        match self.update {
            Update::Delta => OfGate {
                step: -given.log_decay * rate * sigmoid(argument),
                write: given.write * gate.write * (1.0 - gate.write),
                rate: of_rate,
            },
            Update::Sum { least, most } => {
                let step = softplus(argument);
                let moves = step > least && step < most;
                let of_step = (given.write - given.log_decay * rate) * sigmoid(argument);
                OfGate {
                    step: if moves { of_step } else { 0.0 },
                    write: 0.0,
                    rate: of_rate,
                }
            }
        }
    }

    /// Returns the place of a head's step among a token's gates.
    pub(super) fn step_place(&self, head: usize) -> usize {
        match self.update {
            Update::Delta => self.value_heads + head,
            Update::Sum { .. } => head,
        }
    }

    fn step(&self, gates: &[f32], vectors: &[f32], head: usize) -> f32 {
        gates[self.step_place(head)] + vectors[self.value_heads + head]
    }
}

vectorised! {
    /// Returns Σ x y.
    pub(super) fn product_of<'a, A>(x: &'a [f32], y: &'a [f32]) -> f32 {
        sum_of_products::<A>(x, y)
    }
}

/// Returns log(1 + e^x).
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
