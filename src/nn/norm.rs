//! Normalization of rows.

use burn::tensor::{DType, Tensor};

use super::weight::Weight;
use crate::ops::{rms_norm, rms_norm_gradients, rms_norm_input};

/// A norm of rows. RMS norm: y = x / sqrt(mean(x²) + ε) · (o + w), Zhang and Sennrich 2019,
/// arXiv:1910.07467. Layer norm, Ba et al. 2016, arXiv:1607.06450, is the same of x - mean(x), plus
/// b where there is a bias b.
#[derive(Debug, Clone)]
pub struct Norm {
    /// The weight w, [width].
    pub weight: Tensor<1>,
    /// The bias b, [width].
    pub bias: Option<Tensor<1>>,
    /// Whether the mean is subtracted.
    pub centers: bool,
    /// Whether w is a constant that no file has.
    pub is_fixed: bool,
    /// ε, added to the mean square.
    pub epsilon: f64,
    /// The offset o, which some families leave out of their files.
    pub offset: f64,
    /// Whether w and b train.
    pub trains: bool,
}

impl Norm {
    /// Returns o + w.
    fn factor(&self) -> Tensor<1> {
        if self.offset == 0.0 {
            self.weight.clone()
        } else {
            self.weight.clone().add_scalar(self.offset)
        }
    }

    /// Returns x - mean(x) where the norm centers. The map is its own transpose: a gradient goes
    /// back through it the same way.
    fn centered<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if !self.centers {
            return x;
        }
        let given = x.dtype();
        let mean = x.clone().cast(DType::F32).mean_dim(D - 1).cast(given);
        x - mean
    }

    /// Normalizes rows.
    ///
    /// # Shapes
    /// `x` [.., width], result the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let y = rms_norm(self.centered(x), self.factor(), self.epsilon);
        match &self.bias {
            Some(bias) => {
                let given = y.dtype();
                y + bias.clone().cast(given).unsqueeze()
            }
            None => y,
        }
    }

    /// Returns the gradient of x, given that of y.
    ///
    /// # Shapes
    /// `x` and `gradient` [.., width], untracked.
    pub fn backward<const D: usize>(&self, x: Tensor<D>, gradient: Tensor<D>) -> Tensor<D> {
        self.centered(rms_norm_input(
            self.centered(x),
            self.factor(),
            gradient,
            self.epsilon,
        ))
    }

    /// Visits w and b where they train; `module` is the norm's name.
    pub fn visit(&mut self, module: &str, visit: &mut dyn FnMut(&str, Weight)) {
        if self.trains && !self.is_fixed {
            visit(
                &format!("{module}.weight"),
                Weight::Vector(&mut self.weight),
            );
            self.bias
                .iter_mut()
                .for_each(|bias| visit(&format!("{module}.bias"), Weight::Vector(bias)));
        }
    }

    /// Returns the gradients of x and of what [`Norm::visit`] visits, [width] each, given that of
    /// y.
    ///
    /// # Shapes
    /// `x` and `gradient` [rows, width], untracked.
    pub fn gradients(&self, x: Tensor<2>, gradient: Tensor<2>) -> (Tensor<2>, Vec<Tensor<1>>) {
        let of_bias = self
            .bias
            .as_ref()
            .map(|_| gradient.clone().cast(DType::F32).sum_dim(0).squeeze_dim(0));
        let (of_x, of_weight) =
            rms_norm_gradients(self.centered(x), self.factor(), gradient, self.epsilon);
        let of_weight = (!self.is_fixed).then_some(of_weight);
        (
            self.centered(of_x),
            of_weight.into_iter().chain(of_bias).collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn drawn(step: f32, shape: [usize; 2]) -> Tensor<2> {
        let numbers = (0..shape[0] * shape[1])
            .map(|place| (place as f32 * step).sin() + 0.3)
            .collect();
        Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
    }

    fn flat<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().iter::<f64>().collect()
    }

    #[test]
    fn the_norm_of_layers_is_its_formula_and_its_gradients_are_those_of_the_tape() {
        let (rows, width, epsilon) = (5, 7, 1e-5);
        let (x, gradient) = (drawn(0.7, [rows, width]), drawn(1.9, [rows, width]));
        let vector = |step| drawn(step, [1, width]).squeeze_dim::<1>(0);
        let norm = Norm {
            weight: vector(0.4),
            bias: Some(vector(2.3)),
            centers: true,
            is_fixed: false,
            epsilon,
            offset: 0.0,
            trains: true,
        };
        let (numbers, weight, bias) = (
            flat(x.clone()),
            flat(norm.weight.clone()),
            flat(vector(2.3)),
        );
        let expected: Vec<f64> = numbers
            .chunks(width)
            .flat_map(|row| {
                let mean = row.iter().sum::<f64>() / width as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let scale = 1.0 / (variance + epsilon).sqrt();
                row.iter()
                    .zip(&weight)
                    .zip(&bias)
                    .map(|((x, w), b)| (x - mean) * scale * w + b)
                    .collect::<Vec<_>>()
            })
            .collect();
        let worst = flat(norm.forward(x.clone()))
            .iter()
            .zip(&expected)
            .map(|(y, e)| (y - e).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2e-6, "{worst}");

        let leaf = |tensor: Tensor<1>| tensor.autodiff().require_grad();
        let tracked = Norm {
            weight: leaf(norm.weight.clone()),
            bias: norm.bias.clone().map(leaf),
            ..norm.clone()
        };
        let input = x.clone().autodiff().require_grad();
        let gradients = (tracked.forward(input.clone()) * gradient.clone().autodiff())
            .sum()
            .backward();
        let (of_x, of_weights) = norm.gradients(x.clone(), gradient.clone());
        let tape = [
            flat(input.grad(&gradients).expect("tracked")),
            flat(tracked.weight.grad(&gradients).expect("tracked")),
            flat(
                tracked
                    .bias
                    .expect("there")
                    .grad(&gradients)
                    .expect("tracked"),
            ),
        ];
        let ours = [
            flat(of_x),
            flat(of_weights[0].clone()),
            flat(of_weights[1].clone()),
        ];
        for (ours, tape) in ours.iter().zip(&tape) {
            assert!(
                ours.iter()
                    .zip(tape)
                    .all(|(ours, tape)| (ours - tape).abs() < 5e-6),
                "{ours:?} and {tape:?}"
            );
        }
        assert_eq!(flat(norm.backward(x, gradient)), ours[0]);
    }
}
