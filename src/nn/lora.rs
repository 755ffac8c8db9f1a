//! The low-rank adapter of one projection.

use burn::tensor::Tensor;

use super::magnitude::Magnitude;
use super::weight::Weight;
use crate::keyed_random::{mix, unit};
use crate::ops::Adapter;
use crate::terms::AdapterVector;

/// `scale · drop(x) A B`, Hu et al. 2021, arXiv:2106.09685; `scale` is alpha / r, or alpha /
/// sqrt(r) with rslora (arXiv:2312.03732).
#[derive(Debug, Clone)]
pub struct Lora {
    /// [in, r], f32.
    pub a: Tensor<2>,
    /// [r, out], f32.
    pub b: Tensor<2>,
    /// What the product is multiplied by.
    pub scale: f64,
    /// What the map is to what the adapter is of.
    pub portion: Portion,
    /// What it has beside A and B.
    pub vector: Option<Box<Vector>>,
    /// A [in, r] and B [r, out] at the start, where their product was taken out of the weight.
    pub initial: Option<Box<[Tensor<2>; 2]>>,
}

/// One number an output of the map, [out], f32.
#[allow(clippy::large_enum_variant, reason = "an adapter has it in a box")]
#[derive(Debug, Clone)]
pub enum Vector {
    /// B's bias: `scale · (drop(x) A B + bias)`.
    Bias(Tensor<1>),
    /// `DoRA`'s magnitudes.
    Magnitude(Magnitude),
}

impl Vector {
    /// Which of them it is.
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

/// What a linear map is to what its adapter is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portion {
    /// All of it.
    Whole,
    /// The first map, of one expert, of a parameter of all experts.
    Parameter,
    /// The second one there: its A is that of the first, which trains it.
    Behind,
}

impl Lora {
    /// It as an operand of [`crate::ops::adapted`].
    pub fn adapter(&self) -> Adapter {
        Adapter {
            a: self.a.clone(),
            b: self.b.clone(),
            scale: self.scale,
        }
    }

    /// What it adds to each output whatever the input, where it has a bias.
    pub fn bias(&self) -> Option<Tensor<1>> {
        if let Some(Vector::Bias(bias)) = self.vector.as_deref() {
            Some(bias.clone().mul_scalar(self.scale))
        } else {
            None
        }
    }

    /// Its magnitudes, where it has some.
    pub fn magnitude(&self) -> Option<&Magnitude> {
        if let Some(Vector::Magnitude(magnitude)) = self.vector.as_deref() {
            Some(magnitude)
        } else {
            None
        }
    }

    /// Parameters in A, B and its vector; an A that is shared counts once.
    pub fn parameters(&self) -> usize {
        let of_a = if self.portion == Portion::Behind {
            0
        } else {
            self.a.shape().num_elements()
        };
        let [_, outputs] = self.b.dims();
        of_a + self.b.shape().num_elements() + self.vector.as_ref().map_or(0, |_| outputs)
    }

    /// Visits what trains, with its names; `module` is the projection's.
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

/// PEFT's initial numbers of a matrix [inputs, outputs], uniform in ±1/sqrt(inputs) (Kaiming
/// uniform with a = sqrt(5)), row by row, from draws that depend on the seed and the matrix's name
/// alone: no other adapter, and no order of creation, changes them.
pub fn initial(seed: u64, name: &str, inputs: usize, outputs: usize) -> Vec<f32> {
    let key = key_of(seed, name);
    let bound = 1.0 / (inputs as f64).sqrt();
    let draw = |index: usize| (2.0 * unit(key.wrapping_add(index as u64)) - 1.0) * bound;
    (0..inputs * outputs)
        .map(|index| draw(index) as f32)
        .collect()
}

/// Numbers of the standard normal distribution (Box and Muller 1958), by the same rule.
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
