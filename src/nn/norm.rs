//! Root-mean-square normalisation.

use burn::tensor::Tensor;

/// y = x / sqrt(mean(x²) + ε) · w, Zhang and Sennrich 2019, arXiv:1910.07467.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// [width].
    pub weight: Tensor<1>,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl RmsNorm {
    /// # Shapes
    /// `x` [.., width], result the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let inverse = self.inverse_rms(x.clone());
        x * inverse * self.weight.clone().unsqueeze()
    }

    /// The gradient of x, given that of y: r w∘g - x r³ mean(x∘w∘g), with r = 1 / sqrt(mean(x²) + ε).
    ///
    /// # Shapes
    /// `x` and `gradient` [.., width], untracked.
    pub fn backward<const D: usize>(&self, x: Tensor<D>, gradient: Tensor<D>) -> Tensor<D> {
        let inverse = self.inverse_rms(x.clone());
        let weighted = gradient * self.weight.clone().unsqueeze();
        let along = (x.clone() * weighted.clone()).mean_dim(D - 1) * inverse.clone().powi_scalar(3);
        weighted * inverse - x * along
    }

    /// The gradient of w, [width]: the sum over rows of x r∘g.
    ///
    /// # Shapes
    /// `x` and `gradient` [rows, width], untracked.
    pub fn backward_weight(&self, x: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
        let inverse = self.inverse_rms(x.clone());
        (x * inverse * gradient).sum_dim(0).squeeze_dim(0)
    }

    fn inverse_rms<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x.square().mean_dim(D - 1).add_scalar(self.epsilon).sqrt().recip()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let device = Device::flex();
        let norm = RmsNorm { weight: Tensor::from_data([0.5, -1.0, 2.0], &device), epsilon: 1e-5 };
        let x = Tensor::<2>::from_data([[0.3, -0.7, 1.1], [2.0, 0.1, -0.4]], &device);
        let g = Tensor::<2>::from_data([[1.0, 0.2, -0.5], [0.7, -1.3, 0.9]], &device);
        let leaf = x.clone().autodiff().require_grad();
        let gradients = (norm.forward(leaf.clone()) * g.clone()).sum().backward();
        let expected = leaf.grad(&gradients).expect("tracked");
        norm.backward(x.clone(), g.clone()).into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));

        let tracked = RmsNorm { weight: norm.weight.clone().autodiff().require_grad(), ..norm };
        let gradients = (tracked.forward(x.clone()) * g.clone()).sum().backward();
        let expected = tracked.weight.grad(&gradients).expect("tracked");
        norm.backward_weight(x, g).into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
    }
}
