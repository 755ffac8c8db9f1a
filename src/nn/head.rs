//! The loss: final norm, vocabulary projection and cross-entropy over the labelled rows, in chunks, with a backward of its own. The batch's logits never exist.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::norm::Norm;
use super::table::{Table, Whole};
use crate::ops::{Mask, cross_entropy, cross_entropy_losses};

/// Final norm and vocabulary projection.
#[derive(Debug, Clone)]
pub struct Head {
    /// The norm before the projection.
    pub norm: Norm,
    /// [vocabulary, width]; the embedding itself where the family ties them.
    pub table: Table,
    /// What logits are multiplied by.
    pub scale: f64,
    /// c, where a logit z becomes c tanh(z / c) after that.
    pub softcap: Option<f64>,
}

/// Of what a gradient is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Of nothing: losses only.
    Nothing,
    /// Of the head's input, and of what an adapter has of the table.
    Input,
    /// Of the input and of the head's own weights.
    InputAndWeights,
}

/// What labelled rows cost.
#[derive(Debug, Clone)]
pub struct Scored {
    /// -log p of each row's target, nats.
    pub losses: Vec<f32>,
    /// Gradient of their sum with respect to the head's input, [rows, width]; `None` where it was not asked for.
    pub gradient: Option<Tensor<2>>,
    /// Gradients of the final norm's vectors, [width] each; none where they were not asked for.
    pub norm: Vec<Tensor<1>>,
    /// Gradients of what trains of the table, in its order.
    pub table: Vec<Tensor<2>>,
}

impl Head {
    /// Logits of every row, [rows, vocabulary] in f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.capped(self.table.logits(&self.norm.forward(hidden), None))
    }

    /// What products of the table become.
    fn capped(&self, logits: Tensor<2>) -> Tensor<2> {
        let logits = if is_one(self.scale) { logits } else { logits.mul_scalar(self.scale) };
        match self.softcap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// The gradient of what [`Head::capped`] is given, given its result and the gradient of that: the tangent of tanh is 1 - tanh².
    fn through_cap(&self, capped: Option<Tensor<2>>, gradient: Tensor<2>) -> Tensor<2> {
        let gradient = match (capped, self.softcap) {
            (Some(capped), Some(cap)) => gradient * (1.0 - capped.div_scalar(cap).powi_scalar(2)),
            _ => gradient,
        };
        if is_one(self.scale) { gradient } else { gradient.mul_scalar(self.scale) }
    }

    /// Losses of labelled rows, one target each, and the gradients of their sum that are wanted, times `scale`; that of the input is
    /// Norm'(x) (softmax(z) - onehot) W. Logits, softmax and loss are f32. The mask drops features of what an adapter is given.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked; a mask has as many tokens. At most `chunk_rows` rows of logits exist at a time.
    ///
    /// # Panics
    /// Gradients of weights are wanted of a table in pieces.
    pub fn score(
        &self,
        hidden: Tensor<2>,
        targets: &[i32],
        chunk_rows: usize,
        wanted: Wanted,
        (scale, mask): (f64, Option<&Mask>),
    ) -> Scored {
        let mut scored =
            Scored { losses: Vec::with_capacity(targets.len()), gradient: None, norm: Vec::new(), table: Vec::new() };
        let mut gradients = Vec::new();
        let whole = if wanted == Wanted::InputAndWeights { Whole::Trains } else { Whole::Frozen };
        let computed = hidden.dtype();
        for (chunk, targets) in targets.chunks(chunk_rows).enumerate() {
            let rows = chunk * chunk_rows..chunk * chunk_rows + targets.len();
            let x = hidden.clone().slice(rows.clone()); // [rows of the chunk, width]
            let mask = mask.map(|mask| Mask { tokens: mask.tokens[rows].into(), ..mask.clone() });
            let targets: Arc<[u32]> = targets.iter().map(|target| target.cast_unsigned()).collect();
            let normed = self.norm.forward(x.clone());
            let logits = self.capped(self.table.logits(&normed, mask.as_ref())); // [rows of the chunk, vocabulary]
            if wanted == Wanted::Nothing {
                scored.losses.extend(cross_entropy_losses(logits, targets).into_data().iter::<f32>());
                continue;
            }
            // Without a cap the gradient takes the place of the logits.
            let capped = self.softcap.map(|_| logits.clone());
            let (of_rows, d_logits) = cross_entropy(logits, targets);
            scored.losses.extend(of_rows.into_data().iter::<f32>());
            let d_logits = self.through_cap(capped, d_logits);
            // Scaled before they are rounded.
            let d_logits = if is_one(scale) { d_logits } else { d_logits.mul_scalar(scale) }.cast(computed);
            let (d_normed, of_table) = self.table.backward(&normed, d_logits, mask.as_ref(), whole); // [rows of the chunk, width]
            scored.table = added(scored.table, of_table);
            gradients.push(match whole {
                Whole::Frozen => self.norm.backward(x, d_normed),
                Whole::Trains => {
                    let (of_input, of_norm) = self.norm.gradients(x, d_normed);
                    scored.norm = added(scored.norm, of_norm);
                    of_input
                }
            });
        }
        scored.gradient = (wanted != Wanted::Nothing).then(|| Tensor::cat(gradients, 0));
        scored
    }
}

/// The sums of a chunk and those before it, of which there may be none yet.
fn added<const D: usize>(sums: Vec<Tensor<D>>, more: Vec<Tensor<D>>) -> Vec<Tensor<D>> {
    if sums.is_empty() { more } else { sums.into_iter().zip(more).map(|(sum, more)| sum + more).collect() }
}

fn is_one(factor: f64) -> bool {
    factor.to_bits() == 1_f64.to_bits()
}
