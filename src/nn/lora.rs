//! The low-rank adapter of one projection.

use burn::tensor::Tensor;

use super::magnitude::Magnitude;
use super::weight::Weight;
use crate::keyed_random::{mix, unit};
use crate::ops::Adapter;
use crate::terms::AdapterVector;

/// A LoRA adapter, `scale · drop(x) A B`, Hu et al. 2021, arXiv:2106.09685; `scale` is alpha / r,
/// or alpha / sqrt(r) with rslora (arXiv:2312.03732).
#[derive(Debug, Clone)]
pub struct Lora {
    /// The matrix A, [in, r], f32.
    pub a: Tensor<2>,
    /// The matrix B, [r, out], f32.
    pub b: Tensor<2>,
    /// The factor of the product.
    pub scale: f64,
    /// The part of the adapted tensor that this projection is.
    pub portion: Portion,
    /// The trained vector beside A and B.
    pub vector: Option<Box<Vector>>,
    /// Initial A [in, r] and B [r, out], where their product was subtracted from the weight.
    pub initial: Option<Box<[Tensor<2>; 2]>>,
}

/// A trained vector with one number per output, [out], f32.
#[allow(clippy::large_enum_variant, reason = "an adapter has it in a box")]
#[derive(Debug, Clone)]
pub enum Vector {
    /// Bias of B: `scale · (drop(x) A B + bias)`.
    Bias(Tensor<1>),
    /// Magnitudes of `DoRA`.
    Magnitude(Magnitude),
}

impl Vector {
    /// Returns which kind of vector it is.
    pub fn kind(&self) -> AdapterVector {
        match self {
            Self::Bias(_) => AdapterVector::Bias,
            Self::Magnitude(_) => AdapterVector::Magnitude,
        }
    }

    fn numbers_mut(&mut self) -> &mut Tensor<1> {
        match self {
            Self::Bias(bias) => bias,
            Self::Magnitude(magnitude) => &mut magnitude.vector,
        }
    }
}

/// The part of an adapted tensor that a projection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portion {
    /// The whole tensor.
    Whole,
    /// The first projection, of one expert, within a parameter of all experts.
    Parameter,
    /// The second projection there. It uses the A of the first one, which trains it.
    Behind,
}

impl Lora {
    /// Returns the adapter as an operand of [`crate::ops::adapted`].
    pub fn adapter(&self) -> Adapter {
        Adapter {
            a: self.a.clone(),
            b: self.b.clone(),
            scale: self.scale,
        }
    }

    /// Returns the bias of the outputs, where the adapter has one.
    pub fn bias(&self) -> Option<Tensor<1>> {
        if let Some(Vector::Bias(bias)) = self.vector.as_deref() {
            Some(bias.clone().mul_scalar(self.scale))
        } else {
            None
        }
    }

    /// Returns the magnitudes, where the adapter has them.
    pub fn magnitude(&self) -> Option<&Magnitude> {
        if let Some(Vector::Magnitude(magnitude)) = self.vector.as_deref() {
            Some(magnitude)
        } else {
            None
        }
    }

    /// Returns the number of parameters in A, B and the vector; a shared A counts once.
    pub fn parameters(&self) -> usize {
        let of_a = if self.portion == Portion::Behind {
            0
        } else {
            self.a.shape().num_elements()
        };
        let [_, outputs] = self.b.dims();
        of_a + self.b.shape().num_elements() + self.vector.as_ref().map_or(0, |_| outputs)
    }

    /// Visits what trains, with names; `module` is the projection's name.
    pub fn visit(&mut self, module: &str, visit: &mut dyn FnMut(&str, Weight)) {
        if self.portion != Portion::Behind {
            visit(
                &format!("{module}.lora_A.weight"),
                Weight::Turned(&mut self.a),
            );
        }
        visit(
            &format!("{module}.lora_B.weight"),
            Weight::LoraB(&mut self.b),
        );
        if let Some(vector) = &mut self.vector {
            visit(
                &format!("{module}.{}", vector.kind().name()),
                Weight::LoraVector(vector.numbers_mut()),
            );
        }
    }
}

/// Returns PEFT's initial numbers of a matrix [inputs, outputs], row by row: uniform in
/// ±1/sqrt(inputs) (Kaiming uniform with a = sqrt(5)). The draws depend on the seed and the
/// matrix's name alone: no other adapter, and no order of creation, changes them.
pub fn initial(seed: u64, name: &str, inputs: usize, outputs: usize) -> Vec<f32> {
    let key = key_of(seed, name);
    let bound = 1.0 / (inputs as f64).sqrt();
    let draw = |index: usize| (2.0 * unit(key.wrapping_add(index as u64)) - 1.0) * bound;
    (0..inputs * outputs)
        .map(|index| draw(index) as f32)
        .collect()
}

/// Returns numbers of the standard normal distribution (Box and Muller 1958) that depend on the
/// seed and the name alone.
pub fn initial_normal(seed: u64, name: &str, count: usize) -> Vec<f32> {
    let key = key_of(seed, name);
    let draw = |index: usize| {
        let [radius, angle] = [0, 1].map(|part| unit(key.wrapping_add(2 * index as u64 + part)));
        (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    };
    (0..count).map(|index| draw(index) as f32).collect()
}

fn key_of(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(mix(seed), |key, byte| mix(key ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        let drawn: Vec<f64> = initial_normal(42, "model.embed_tokens.lora_B", 1 << 14)
            .into_iter()
            .map(f64::from)
            .collect();
        let moment =
            |power: i32| drawn.iter().map(|x| x.powi(power)).sum::<f64>() / drawn.len() as f64;
        let moments = [1, 2, 3, 4].map(moment);
        assert!(
            moments
                .iter()
                .zip([0.0, 1.0, 0.0, 3.0])
                .all(|(ours, exact)| (ours - exact).abs() < 0.15),
            "{moments:?}"
        );
    }

    #[test]
    fn initial_numbers_have_the_moments_of_pefts_distribution() {
        let a: Vec<f64> = initial(42, "model.layers.0.self_attn.q_proj", 256, 64)
            .into_iter()
            .map(f64::from)
            .collect();
        let count = a.len() as f64;
        let (mean, variance) = (
            a.iter().sum::<f64>() / count,
            a.iter().map(|v| v * v).sum::<f64>() / count,
        );
        let bound = 1.0 / 16.0;
        assert!(a.iter().all(|v| v.abs() <= bound));
        assert!(mean.abs() < 0.01 * bound, "{mean}");
        assert!(
            (variance / (bound * bound / 3.0) - 1.0).abs() < 0.03,
            "{variance}"
        );
    }

    #[test]
    fn initial_numbers_depend_on_seed_and_name_only() {
        assert_eq!(initial(1, "x", 4, 2), initial(1, "x", 4, 2));
        assert_ne!(initial(1, "x", 4, 2), initial(2, "x", 4, 2));
        assert_ne!(initial(1, "x", 4, 2), initial(1, "y", 4, 2));
    }
}
