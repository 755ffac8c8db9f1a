//! Weights split into the magnitude and the direction of each output.

use burn::tensor::{DType, Tensor, TensorData};

use crate::ops::{Adapter, Base, matmul, times};

/// Squared norm below which weights have no direction: whatever scales a row of zeros, the result
/// is 0.
const NOTHING: f64 = 1e-30;

/// `DoRA`, Liu et al. 2024, arXiv:2402.09353: y = m / ‖W + s A B‖ · x (W + s A B), with the norm of
/// each output's weights. As in section 4.3 the norm is a constant to gradients.
///
/// W + s A B is never formed: ‖W + s A B‖² = ‖W‖² + Σ B ⊙ (2 s Aᵀ W + s² Aᵀ A B) over the rank,
/// where ‖W‖² never changes.
#[derive(Debug, Clone)]
pub struct Magnitude {
    /// The magnitudes m, [out], f32.
    pub vector: Tensor<1>,
    /// ‖W‖² of each output, [out], f32.
    squares: Tensor<1>,
    /// m / ‖W + s A B‖, where it does not change any more.
    settled: Option<Tensor<1>>,
}

impl Magnitude {
    /// Makes the magnitudes of a weight [in, out] with an adapter. m is the norm, so that nothing
    /// changes, unless it is given, [out].
    pub fn new(weight: &Base, adapter: Adapter, vector: Option<Tensor<1>>) -> Self {
        let (device, [_, outputs]) = (adapter.a.device(), weight.dims());
        let squares = Tensor::from_data(
            TensorData::new(weight.column_squares(), [outputs]),
            (&device, DType::F32),
        );
        let fresh = Self {
            vector: squares.clone(),
            squares,
            settled: None,
        };
        let vector = vector.unwrap_or_else(|| fresh.norms(weight, adapter, DType::F32));
        Self { vector, ..fresh }
    }

    /// Returns m / ‖W + s A B‖, [out].
    pub fn factors(&self, weight: &Base, adapter: Adapter, computed: DType) -> Tensor<1> {
        match &self.settled {
            Some(settled) => settled.clone(),
            None => self.vector.clone() / self.norms(weight, adapter, computed),
        }
    }

    /// Computes the factors once, for as long as nothing trains.
    pub fn settle(&mut self, weight: &Base, adapter: Adapter, computed: DType) {
        self.settled = Some(self.factors(weight, adapter, computed));
    }

    /// Returns ‖W + s A B‖ without a tape, [out]. Aᵀ W is computed in the type `computed`.
    fn norms(&self, weight: &Base, adapter: Adapter, computed: DType) -> Tensor<1> {
        let Adapter { a, b, scale } = adapter;
        let [a, b] = [a, b].map(|matrix| {
            if matrix.is_require_grad() {
                matrix.inner()
            } else {
                matrix
            }
        });
        let turned = a.clone().transpose(); // [r, in]
        let of_both = times(turned.clone().cast(computed), weight.clone(), DType::F32); // [r, out]
        let of_change = matmul(matmul(turned, a), b.clone()); // [r, out]
        let sums = (b * (of_both.mul_scalar(2.0 * scale) + of_change.mul_scalar(scale * scale)))
            .sum_dim(0); // [1, out]
        (self.squares.clone() + sums.squeeze_dim(0))
            .clamp_min(NOTHING)
            .sqrt()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::keyed_random::{mix, unit};
    use crate::ops::Packed;
    use crate::quant::QuantFormat;

    fn drawn(seed: u64, shape: [usize; 2]) -> Vec<f32> {
        (0..(shape[0] * shape[1]) as u64)
            .map(|index| unit(mix(seed ^ mix(index))) as f32 - 0.5)
            .collect()
    }

    fn tensor(numbers: &[f32], shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(
            TensorData::new(numbers.to_vec(), shape),
            (&Device::flex(), DType::F32),
        )
    }

    #[test]
    fn norms_are_those_of_the_sum_on_numbers_and_on_what_is_packed() {
        let (inputs, outputs) = (96, 40);
        let (turned, device) = (drawn(1, [outputs, inputs]), Device::flex());
        let packed = QuantFormat::QLORA
            .pack([outputs, inputs], &turned)
            .expect("finite");
        for rank in [1, 3, 8, 20] {
            let (a, b) = (drawn(2, [inputs, rank]), drawn(3, [rank, outputs]));
            let adapter = Adapter {
                a: tensor(&a, [inputs, rank]),
                b: tensor(&b, [rank, outputs]),
                scale: 1.7,
            };
            let dense = tensor(&turned, [outputs, inputs]).transpose();
            let bases = [
                (Base::Dense(dense), turned.clone()),
                (
                    Base::Packed(Packed::new(packed.clone(), &device)).transposed(),
                    packed.unpack(),
                ),
            ];
            for (base, weights) in bases {
                let ours = Magnitude::new(&base, adapter.clone(), None)
                    .vector
                    .into_data();
                for (output, ours) in ours.iter::<f32>().enumerate() {
                    let sum = |input: usize| {
                        let change = |k: usize| {
                            f64::from(a[input * rank + k]) * f64::from(b[k * outputs + output])
                        };
                        f64::from(weights[output * inputs + input])
                            + 1.7 * (0..rank).map(change).sum::<f64>()
                    };
                    let norm = (0..inputs)
                        .map(|input| sum(input).powi(2))
                        .sum::<f64>()
                        .sqrt();
                    assert!(
                        (f64::from(ours) / norm - 1.0).abs() < 2e-6,
                        "rank {rank}, output {output}: {ours}, not {norm}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_fresh_one_changes_no_bit_and_weights_of_zero_stay_zero() {
        let weight = Base::Dense(tensor(&[3.0, 0.0, 4.0, 0.0], [2, 2]));
        let adapter = Adapter {
            a: tensor(&[0.3, 0.7], [2, 1]),
            b: Tensor::zeros([1, 2], &Device::flex()),
            scale: 2.0,
        };
        let mut magnitude = Magnitude::new(&weight, adapter.clone(), None);
        let factors = |magnitude: &Magnitude| {
            magnitude
                .factors(&weight, adapter.clone(), DType::F32)
                .into_data()
        };
        let of_zero = TensorData::from([5.0f32, 1e-15]);
        magnitude.vector.to_data().assert_eq(&of_zero, true);
        factors(&magnitude).assert_eq(&TensorData::from([1.0f32, 1.0]), true);
        magnitude.vector = magnitude.vector.mul_scalar(2.0);
        magnitude.settle(&weight, adapter.clone(), DType::F32);
        factors(&magnitude).assert_eq(&TensorData::from([2.0f32, 2.0]), true);
    }
}
