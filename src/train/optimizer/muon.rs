//! Muon: the update of a matrix is its momentum, made nearly orthogonal. torch does that in
//! bfloat16. Here sums have 32 bits, and what torch keeps is rounded as in torch, on devices
//! without bfloat16 too.
//!
//! ```text
//! b ← μ b + (1 - μ) g        u = μ b + (1 - μ) g        X = u / ‖u‖
//! five times: A = X Xᵀ, X ← 3.4445 X + (-4.7750 A + 2.0315 A²) X        w ← (1 - η λ) w - η s X
//! ```

use burn::tensor::Tensor;

use super::Muon;
use super::config::AdjustLr;
use super::rules::{Rates, Updated, mean};
use crate::ops::{in_float32, matmul_each};

/// Number of Newton-Schulz steps; their polynomial follows.
const STEPS: usize = 5;
const POLYNOMIAL: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// The smallest divisor in place of a norm.
const LEAST_NORM: f64 = 1e-7;

impl Muon {
    /// Returns the momentum after a gradient, the only result of an update that could be infinite.
    pub(super) fn next_momentum(&self, gradients: Tensor<2>, before: Tensor<2>) -> Tensor<2> {
        mean(before, self.momentum, gradients)
    }

    /// Returns matrices [weights, rows · columns] after an update.
    pub(super) fn update(
        &self,
        weights: Tensor<2>,
        gradients: Tensor<2>,
        momentum: Tensor<2>,
        shape: [usize; 2],
        rates: Rates,
    ) -> Updated {
        let momentum = self.next_momentum(gradients.clone(), momentum);
        let ahead = self.next_momentum(gradients, momentum.clone());
        let update = in_float32(|| orthogonal(ahead, shape));
        let rate = rates.learning_rate * self.ratio(shape);
        (
            rates.decayed(weights) - update.mul_scalar(rate),
            vec![momentum],
        )
    }

    /// Returns the factor of the learning rate.
    fn ratio(&self, [rows, columns]: [usize; 2]) -> f64 {
        match self.adjust_lr {
            AdjustLr::Original => (rows as f64 / columns as f64).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamW => 0.2 * (rows.max(columns) as f64).sqrt(),
        }
    }
}

/// Returns the matrices with singular values near 1.
fn orthogonal(matrices: Tensor<2>, [rows, columns]: [usize; 2]) -> Tensor<2> {
    let count = matrices.dims()[0];
    let matrices = rounded(matrices);
    // [weights, 1]
    let norm = rounded(matrices.clone().square().sum_dim(1).sqrt()).clamp_min(LEAST_NORM);
    let stack = rounded(matrices / norm).reshape([count, rows, columns]);
    let is_tall = rows > columns;
    let turned = |stack: Tensor<3>| {
        if is_tall {
            stack.swap_dims(1, 2)
        } else {
            stack
        }
    };
    let [a, b, c] = POLYNOMIAL;
    let polished = (0..STEPS).fold(turned(stack), |wide, _| {
        let square = rounded(matmul_each(wide.clone(), wide.clone().swap_dims(1, 2)));
        let of_square =
            square.clone().mul_scalar(b) + matmul_each(square.clone(), square).mul_scalar(c);
        rounded(wide.clone().mul_scalar(a) + matmul_each(rounded(of_square), wide))
    });
    turned(polished).reshape([count, rows * columns])
}

/// Rounds numbers to their 8 leading bits, as bfloat16 has (Dekker 1971, doi:10.1007/BF01397083): x
/// (2¹⁶ + 1) has no room for the others.
fn rounded<const D: usize>(numbers: Tensor<D>) -> Tensor<D> {
    let above = numbers.clone().mul_scalar(65_537.0);
    above.clone() - (above - numbers)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    #[test]
    fn numbers_are_rounded_as_to_bfloat16() {
        let drawn: Vec<f32> = (0..4000)
            .map(|index| (0.37 * index as f32).sin() * 2_f32.powi(index % 40 - 30))
            .collect();
        let numbers = Tensor::<1>::from_data(TensorData::from(&drawn[..]), &Device::flex());
        let expected = numbers.clone().cast(DType::BF16).cast(DType::F32);
        rounded(numbers)
            .into_data()
            .assert_eq(&expected.into_data(), true);
    }

    /// Rows of a wide matrix, and columns of a tall one, are nearly orthogonal afterwards, whatever
    /// the scale before.
    #[test]
    fn singular_values_come_near_1() {
        for (rows, columns) in [(4, 30), (30, 4), (7, 7), (1, 5)] {
            for scale in [1e-6, 1.0, 1e6] {
                let drawn: Vec<f32> = (0..2 * rows * columns)
                    .map(|index| scale * (1.7 * (index * index) as f32).sin())
                    .collect();
                let data = TensorData::new(drawn, [2, rows * columns]);
                let found = orthogonal(Tensor::from_data(data, &Device::flex()), [rows, columns]);
                let squares: f32 = found.square().into_data().iter::<f32>().sum();
                let expected = 2.0 * rows.min(columns) as f32;
                assert!(
                    (0.4..1.5).contains(&(squares / expected)),
                    "{rows} x {columns}, {scale}: {squares} of {expected}"
                );
            }
        }
    }
}
