//! The loss: final norm, vocabulary projection and cross-entropy over the labelled rows only, in chunks, with a backward of
//! its own. The batch's logits never exist.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};

use super::norm::RmsNorm;
use crate::ops::matmul;

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

/// What a batch's labelled rows cost.
#[derive(Debug, Clone)]
pub struct Scored {
    /// -log p of each labelled row, nats, in the order of the labels.
    pub losses: Vec<f32>,
    /// Gradient of their sum with respect to the head's input, [tokens, width]; `None` where it was not asked for.
    pub gradient: Option<Tensor<2>>,
}

impl Head {
    /// Logits of every row, [rows, vocabulary].
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        matmul(self.norm.forward(hidden), self.weight.clone().transpose())
    }

    /// Losses of the labelled rows and, if asked for, the gradient of their sum: Norm'(x) (softmax(z) - onehot) W.
    ///
    /// # Shapes
    /// `hidden` [tokens, width], untracked. At most `chunk_rows` rows of logits exist at a time.
    pub fn score(&self, hidden: Tensor<2>, labels: Labels, chunk_rows: usize, with_gradient: bool) -> Scored {
        let device = hidden.device();
        let [tokens, width] = hidden.dims();
        let mut losses = Vec::with_capacity(labels.targets.len());
        let mut gradients = Vec::new();
        for (positions, targets) in labels.positions.chunks(chunk_rows).zip(labels.targets.chunks(chunk_rows)) {
            let rows = positions.len();
            let positions = Tensor::<1, Int>::from_data(TensorData::new(positions.to_vec(), [rows]), &device);
            let targets = Tensor::<2, Int>::from_data(TensorData::new(targets.to_vec(), [rows, 1]), &device);
            let x = hidden.clone().select(0, positions); // [rows, width]
            let log_p = log_softmax(self.logits(x.clone()), 1); // [rows, vocabulary]
            losses.extend(log_p.clone().gather(1, targets.clone()).neg().into_data().iter::<f32>());
            if with_gradient {
                let onehot_minus = Tensor::full([rows, 1], -1.0, (&device, log_p.dtype()));
                let d_logits = log_p.exp().scatter(1, targets, onehot_minus, burn::tensor::IndexingUpdateOp::Add);
                gradients.push(self.norm.backward(x, matmul(d_logits, self.weight.clone())));
            }
        }
        let gradient = with_gradient.then(|| {
            let zeros = Tensor::zeros([tokens, width], (&device, hidden.dtype()));
            if gradients.is_empty() {
                return zeros;
            }
            let count = labels.positions.len();
            let positions = Tensor::<1, Int>::from_data(TensorData::new(labels.positions.to_vec(), [count]), &device);
            zeros.select_assign(0, positions, Tensor::cat(gradients, 0), burn::tensor::IndexingUpdateOp::Add)
        });
        Scored { losses, gradient }
    }
}
