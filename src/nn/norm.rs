//! Root-mean-square normalisation.

use burn::tensor::Tensor;

use crate::ops::{rms_norm, rms_norm_gradients, rms_norm_input};

/// y = x / sqrt(mean(x²) + ε) · (o + w), Zhang and Sennrich 2019, arXiv:1910.07467.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// [width].
    pub weight: Tensor<1>,
    /// Added to the mean square.
    pub epsilon: f64,
    /// o, which some families leave out of their files.
    pub offset: f64,
}

impl RmsNorm {
    /// o + w.
    fn factor(&self) -> Tensor<1> {
        if self.offset == 0.0 { self.weight.clone() } else { self.weight.clone().add_scalar(self.offset) }
    }

    /// # Shapes
    /// `x` [.., width], result the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.factor(), self.epsilon)
    }

    /// The gradient of x, given that of y.
    ///
    /// # Shapes
    /// `x` and `gradient` [.., width], untracked.
    pub fn backward<const D: usize>(&self, x: Tensor<D>, gradient: Tensor<D>) -> Tensor<D> {
        rms_norm_input(x, self.factor(), gradient, self.epsilon)
    }

    /// The gradients of x and of w, [width], given that of y.
    ///
    /// # Shapes
    /// `x` and `gradient` [.., width], untracked.
    pub fn gradients<const D: usize>(&self, x: Tensor<D>, gradient: Tensor<D>) -> (Tensor<D>, Tensor<1>) {
        rms_norm_gradients(x, self.factor(), gradient, self.epsilon)
    }
}
