//! The loss: final norm, vocabulary projection and cross-entropy over the labelled rows, in chunks, with a backward of its own. The batch's logits never exist.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::norm::Norm;
use super::table::Table;
use crate::ops::{cross_entropy, cross_entropy_losses, matmul};

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
    /// Of the head's input.
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
    /// Gradients of the final norm's vectors, [width] each, and of the projection, [vocabulary, width]; `None` where they were not asked for.
    pub weights: Option<(Vec<Tensor<1>>, Tensor<2>)>,
}

impl Head {
    /// Logits of every row, [rows, vocabulary] in f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.capped(self.table.logits(&self.norm.forward(hidden)))
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
    /// Norm'(x) (softmax(z) - onehot) W. Logits, softmax and loss are f32.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked. At most `chunk_rows` rows of logits exist at a time.
    ///
    /// # Panics
    /// Gradients of weights are wanted of a table in pieces.
    pub fn score(&self, hidden: Tensor<2>, targets: &[i32], chunk_rows: usize, wanted: Wanted, scale: f64) -> Scored {
        let (mut losses, mut gradients) = (Vec::with_capacity(targets.len()), Vec::new());
        let whole = || self.table.whole().expect("a table whose gradient is wanted is whole");
        let mut weights = (wanted == Wanted::InputAndWeights).then(|| (Vec::new(), whole().zeros_like()));
        let computed = hidden.dtype();
        for (chunk, targets) in targets.chunks(chunk_rows).enumerate() {
            let x = hidden.clone().narrow(0, chunk * chunk_rows, targets.len()); // [rows of the chunk, width]
            let targets: Arc<[u32]> = targets.iter().map(|target| target.cast_unsigned()).collect();
            let normed = self.norm.forward(x.clone());
            let logits = self.capped(self.table.logits(&normed)); // [rows of the chunk, vocabulary]
            if wanted == Wanted::Nothing {
                losses.extend(cross_entropy_losses(logits, targets).into_data().iter::<f32>());
                continue;
            }
            // Without a cap the gradient takes the place of the logits.
            let capped = self.softcap.map(|_| logits.clone());
            let (of_rows, d_logits) = cross_entropy(logits, targets);
            losses.extend(of_rows.into_data().iter::<f32>());
            let d_logits = self.through_cap(capped, d_logits);
            // Scaled before they are rounded.
            let d_logits = if is_one(scale) { d_logits } else { d_logits.mul_scalar(scale) }.cast(computed);
            let d_normed = self.table.hidden_gradient(&d_logits); // [rows of the chunk, width]
            gradients.push(match weights.take() {
                None => self.norm.backward(x, d_normed),
                Some((norm, weight)) => {
                    let (of_input, of_norm) = self.norm.gradients(x, d_normed);
                    let norm =
                        if norm.is_empty() { of_norm } else { norm.into_iter().zip(of_norm).map(|(sum, of)| sum + of).collect() };
                    weights = Some((norm, weight + matmul(d_logits.transpose(), normed)));
                    of_input
                }
            });
        }
        let gradient = (wanted != Wanted::Nothing).then(|| Tensor::cat(gradients, 0));
        Scored { losses, gradient, weights }
    }
}

fn is_one(factor: f64) -> bool {
    factor.to_bits() == 1_f64.to_bits()
}
