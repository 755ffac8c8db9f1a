//! The layer between the hidden rows of an encoder and the map that scores them.

use burn::tensor::{DType, Tensor};

use super::norm::Norm;
use super::weight::Weight;
use crate::ops::{Base, times};

/// The layer y = norm(a(x Dᵀ + d)), without a norm in most architectures: the pooler of Devlin et
/// al. 2018, arXiv:1810.04805, and what has its place in others.
#[derive(Debug, Clone)]
pub struct ScoreLayer {
    /// The module of the map in files.
    pub module: String,
    /// D, [width, width] in f32.
    pub weight: Tensor<2>,
    /// d, [width].
    pub bias: Option<Tensor<1>>,
    /// a.
    pub activation: ScoreActivation,
    /// The norm, with its module in files.
    pub norm: Option<(String, Norm)>,
    /// Whether all of it trains.
    pub trains: bool,
}

/// The function of a score layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreActivation {
    /// The hyperbolic tangent.
    Tanh,
    /// x Φ(x), with the distribution function Φ of a normal variable: Hendrycks and Gimpel 2016,
    /// arXiv:1606.08415.
    Gelu,
}

impl ScoreActivation {
    fn forward(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Tanh => x.tanh(),
            Self::Gelu => x.clone() * below(x),
        }
    }

    /// Returns the derivative at each number.
    fn slope(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Tanh => {
                let y = x.tanh();
                (y.clone() * y).neg().add_scalar(1.0)
            }
            Self::Gelu => {
                let density = (x.clone() * x.clone()).mul_scalar(-0.5).exp();
                let density = density.mul_scalar(1.0 / (2.0 * std::f64::consts::PI).sqrt());
                below(x.clone()) + x * density
            }
        }
    }
}

/// Returns Φ(x).
fn below(x: Tensor<2>) -> Tensor<2> {
    x.mul_scalar(std::f64::consts::FRAC_1_SQRT_2)
        .erf()
        .add_scalar(1.0)
        .mul_scalar(0.5)
}

impl ScoreLayer {
    /// Returns y.
    ///
    /// # Shapes
    /// `x` [rows, width] in f32, untracked, result the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.activation.forward(self.mapped(x));
        match &self.norm {
            Some((_, norm)) => norm.forward(y),
            None => y,
        }
    }

    fn mapped(&self, x: Tensor<2>) -> Tensor<2> {
        let weight = Base::Dense(self.weight.clone().transpose());
        let mapped = times(x, weight, DType::F32);
        match &self.bias {
            Some(bias) => mapped + bias.clone().unsqueeze(),
            None => mapped,
        }
    }

    /// Returns the gradient of x, [rows, width], and those of what [`ScoreLayer::visit`] visits in
    /// memory order, given that of y.
    ///
    /// # Shapes
    /// As for [`ScoreLayer::forward`].
    pub fn backward(&self, x: Tensor<2>, of_output: Tensor<2>) -> (Tensor<2>, Vec<Tensor<1>>) {
        let mapped = self.mapped(x.clone());
        let (of_activated, of_norm) = match &self.norm {
            Some((_, norm)) => {
                let activated = self.activation.forward(mapped.clone());
                norm.gradients(activated, of_output)
            }
            None => (of_output, Vec::new()),
        };
        let of_mapped = of_activated * self.activation.slope(mapped);
        let of_input = times(
            of_mapped.clone(),
            Base::Dense(self.weight.clone()),
            DType::F32,
        );
        if !self.trains {
            return (of_input, Vec::new());
        }
        let of_weight = times(of_mapped.clone().transpose(), Base::Dense(x), DType::F32);
        let of_bias = self
            .bias
            .as_ref()
            .map(|_| of_mapped.sum_dim(0).squeeze_dim(0));
        let of_map = [of_weight.reshape([-1])].into_iter().chain(of_bias);
        (of_input, of_map.chain(of_norm).collect())
    }

    /// Visits what trains, with names.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        if !self.trains {
            return;
        }
        let module = &self.module;
        visit(
            &format!("{module}.weight"),
            Weight::Matrix(&mut self.weight),
        );
        if let Some(bias) = &mut self.bias {
            visit(&format!("{module}.bias"), Weight::LoraVector(bias));
        }
        if let Some((module, norm)) = &mut self.norm {
            let (weight, bias) = (&mut norm.weight, &mut norm.bias);
            visit(&format!("{module}.weight"), Weight::LoraVector(weight));
            if let Some(bias) = bias {
                visit(&format!("{module}.bias"), Weight::LoraVector(bias));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn drawn(rows: usize, columns: usize, step: f32) -> Tensor<2> {
        let numbers = (0..rows * columns)
            .map(|place| (place as f32 * step).sin())
            .collect();
        Tensor::from_data(TensorData::new(numbers, [rows, columns]), &Device::flex())
    }

    fn row(width: usize, step: f32) -> Tensor<1> {
        drawn(1, width, step).squeeze_dim(0)
    }

    #[test]
    fn gradients_are_differences() {
        let (rows, width) = (3, 4);
        for activation in [ScoreActivation::Tanh, ScoreActivation::Gelu] {
            let norm = Norm {
                weight: row(width, 0.9).add_scalar(1.5),
                bias: Some(row(width, 0.2)),
                centers: true,
                is_fixed: false,
                epsilon: 1e-5,
                offset: 0.0,
                trains: false,
            };
            let has_norm = activation == ScoreActivation::Gelu;
            let layer = ScoreLayer {
                module: "dense".to_owned(),
                weight: drawn(width, width, 1.3),
                bias: Some(row(width, 0.4)),
                activation,
                norm: has_norm.then(|| ("norm".to_owned(), norm)),
                trains: true,
            };
            let (x, of_output) = (drawn(rows, width, 0.7), drawn(rows, width, 1.9));
            let sum = |layer: &ScoreLayer, x: &Tensor<2>| -> f64 {
                let products = layer.forward(x.clone()) * of_output.clone();
                products.into_data().iter::<f64>().sum()
            };
            let (of_input, of_weights) = layer.backward(x.clone(), of_output.clone());
            let close = |found: f64, up: f64, down: f64| {
                let expected = (up - down) / 2e-2;
                assert!((found - expected).abs() < 3e-3, "{found}, not {expected}");
            };
            for (place, found) in of_input.into_data().iter::<f64>().enumerate() {
                let by = |step: f32| {
                    let mut all = vec![0.0; rows * width];
                    all[place] = step;
                    let by = TensorData::new(all, [rows, width]);
                    sum(
                        &layer,
                        &(x.clone() + Tensor::from_data(by, &Device::flex())),
                    )
                };
                close(found, by(1e-2), by(-1e-2));
            }
            let mut visited = Vec::new();
            let names = &mut visited;
            layer
                .clone()
                .visit(&mut |name, weight| names.push((name.to_owned(), weight.numbers().dims())));
            assert_eq!(visited.len(), if has_norm { 4 } else { 2 });
            for (index, of_weight) in of_weights.into_iter().enumerate() {
                assert_eq!(of_weight.dims(), visited[index].1);
                for (place, found) in of_weight.into_data().iter::<f64>().enumerate() {
                    let by = |step: f32| {
                        let (mut moved, mut at) = (layer.clone(), 0);
                        moved.visit(&mut |_, weight| {
                            let numbers = weight.numbers();
                            let mut values: Vec<f32> = numbers.into_data().iter().collect();
                            if at == index {
                                values[place] += step;
                            }
                            at += 1;
                            weight.put(Tensor::from_data(&values[..], &Device::flex()));
                        });
                        sum(&moved, &x)
                    };
                    close(found, by(1e-2), by(-1e-2));
                }
            }
        }
    }
}
