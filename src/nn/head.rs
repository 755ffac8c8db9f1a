//! The loss: final norm, vocabulary projection and cross-entropy over the labelled rows only, in chunks, with a backward of
//! its own. The batch's logits never exist.

use std::sync::Arc;

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};

use super::norm::RmsNorm;
use crate::ops::{cross_entropy, cross_entropy_losses, matmul};

/// Final norm and vocabulary projection.
#[derive(Debug, Clone)]
pub struct Head {
    /// The norm before the projection.
    pub norm: RmsNorm,
    /// [vocabulary, width]; the embedding itself where the family ties them.
    pub weight: Tensor<2>,
}

/// Rows of a batch that carry a loss.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// Index into batch · sequence of the position before each trained token, ascending.
    pub positions: &'a [i32],
    /// The trained tokens.
    pub targets: &'a [i32],
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

/// What a batch's labelled rows cost.
#[derive(Debug, Clone)]
pub struct Scored {
    /// -log p of each labelled row, nats, in the order of the labels.
    pub losses: Vec<f32>,
    /// Gradient of their sum with respect to the head's input, [tokens, width]; `None` where it was not asked for.
    pub gradient: Option<Tensor<2>>,
    /// Gradients of the final norm, [width], and of the projection, [vocabulary, width]; `None` where they were not asked for.
    pub weights: Option<(Tensor<1>, Tensor<2>)>,
}

impl Head {
    /// Logits of every row, [rows, vocabulary].
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.project(self.norm.forward(hidden))
    }

    fn project(&self, normed: Tensor<2>) -> Tensor<2> {
        matmul(normed, self.weight.clone().transpose())
    }

    /// Losses of the labelled rows and the gradients of their sum that are wanted; that of the input is
    /// Norm'(x) (softmax(z) - onehot) W.
    ///
    /// # Shapes
    /// `hidden` [tokens, width], untracked. At most `chunk_rows` rows of logits exist at a time.
    pub fn score(&self, hidden: Tensor<2>, labels: Labels, chunk_rows: usize, wanted: Wanted) -> Scored {
        let device = hidden.device();
        let (mut losses, mut gradients) = (Vec::with_capacity(labels.targets.len()), Vec::new());
        let mut weights = (wanted == Wanted::InputAndWeights).then(|| (self.norm.weight.zeros_like(), self.weight.zeros_like()));
        for (positions, targets) in labels.positions.chunks(chunk_rows).zip(labels.targets.chunks(chunk_rows)) {
            let targets: Arc<[u32]> = targets.iter().map(|target| target.cast_unsigned()).collect();
            let x = hidden.clone().select(0, indices(positions, &device)); // [rows, width]
            let normed = self.norm.forward(x.clone());
            let logits = self.project(normed.clone()); // [rows, vocabulary]
            if wanted == Wanted::Nothing {
                losses.extend(cross_entropy_losses(logits, targets).into_data().iter::<f32>());
                continue;
            }
            let (of_rows, d_logits) = cross_entropy(logits, targets);
            losses.extend(of_rows.into_data().iter::<f32>());
            let d_normed = matmul(d_logits.clone(), self.weight.clone()); // [rows, width]
            gradients.push(match weights.take() {
                None => self.norm.backward(x, d_normed),
                Some((norm, weight)) => {
                    let (of_input, of_norm) = self.norm.gradients(x, d_normed);
                    weights = Some((norm + of_norm, weight + matmul(d_logits.transpose(), normed)));
                    of_input
                }
            });
        }
        let gradient = (wanted != Wanted::Nothing).then(|| spread(gradients, labels.positions, &hidden));
        Scored { losses, gradient, weights }
    }
}

/// Rows back to their positions, zeros elsewhere, in the shape of `hidden`.
fn spread(rows: Vec<Tensor<2>>, positions: &[i32], hidden: &Tensor<2>) -> Tensor<2> {
    let zeros = hidden.zeros_like();
    if rows.is_empty() {
        return zeros;
    }
    zeros.select_assign(0, indices(positions, &hidden.device()), Tensor::cat(rows, 0), IndexingUpdateOp::Add)
}

fn indices(positions: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::from(positions), device)
}
