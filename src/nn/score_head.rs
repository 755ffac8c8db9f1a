//! A head that scores hidden rows: a linear map from the width of the model to a few numbers.

use burn::tensor::{DType, Tensor, TensorData};

use super::norm::Norm;
use super::pooler::{pool, pool_backward, runs};
use super::score_layer::ScoreLayer;
use super::weight::Weight;
use crate::ops::{Base, times};
use crate::terms::{Readings, Slopes};

/// The map z = f(norm(x)) Wᵀ + b, where f is the layer that an encoder has there. Of a text whose
/// rows are pooled, norm(x) is their mean.
#[derive(Debug, Clone)]
pub struct ScoreHead {
    /// The module's name in files: `score`, or `classifier` in some architectures.
    pub module: String,
    /// The layer f.
    pub layer: Option<ScoreLayer>,
    /// W, [labels, width] in f32; it trains.
    pub weight: Tensor<2>,
    /// b, [labels], which trains too.
    pub bias: Option<Tensor<1>>,
}

/// Gradients of a sum of scores, each times its slope.
#[derive(Debug, Clone)]
pub struct ScoreGradients {
    /// Gradient of the hidden rows, [rows, width].
    pub input: Tensor<2>,
    /// Gradients of what trains of f, of W and of b in memory order.
    pub weights: Vec<Tensor<1>>,
}

impl ScoreHead {
    /// Returns the number of scores of a row.
    pub fn labels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Visits what trains, with names.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        if let Some(layer) = &mut self.layer {
            layer.visit(visit);
        }
        let module = &self.module;
        visit(
            &format!("{module}.weight"),
            Weight::Matrix(&mut self.weight),
        );
        if let Some(bias) = &mut self.bias {
            visit(&format!("{module}.bias"), Weight::LoraVector(bias));
        }
    }

    /// Returns the scores of hidden rows before the final norm, row by row; of rows that are
    /// pooled, text by text.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked; `pooled` are the ends of the texts among its rows, none
    /// where each row is scored.
    pub fn read(&self, norm: &Norm, hidden: &Tensor<2>, pooled: &[usize]) -> Readings {
        let rows = normed(norm, hidden, pooled);
        let rows = match &self.layer {
            Some(layer) => layer.forward(rows),
            None => rows,
        };
        let weight = self.weight.clone().transpose();
        let scores = times(rows, Base::Dense(weight), DType::F32);
        let scores = match &self.bias {
            Some(bias) => scores + bias.clone().unsqueeze(),
            None => scores,
        };
        Readings::of_values(scores.into_data().iter().collect())
    }

    /// Returns the gradients of the sum of all scores, each times its slope and all times `scale`.
    ///
    /// # Shapes
    /// As for [`ScoreHead::read`], with a slope for each score.
    pub fn backward(
        &self,
        norm: &Norm,
        hidden: &Tensor<2>,
        pooled: &[usize],
        slopes: &Slopes,
        scale: f64,
    ) -> ScoreGradients {
        let inputs = normed(norm, hidden, pooled);
        let ([rows, _], labels) = (inputs.dims(), self.labels());
        let numbers = match slopes {
            Slopes::Same(slope) => vec![*slope; rows * labels],
            Slopes::Each(slopes) => slopes.clone(),
        };
        let d_scores = Tensor::<2>::from_data(
            TensorData::new(numbers, [rows, labels]),
            (&hidden.device(), DType::F32),
        )
        .mul_scalar(scale);
        let scored = match &self.layer {
            Some(layer) => layer.forward(inputs.clone()),
            None => inputs.clone(),
        };
        let d_weight = times(
            d_scores.clone().transpose(),
            Base::Dense(scored),
            DType::F32,
        );
        let of_scored = times(
            d_scores.clone(),
            Base::Dense(self.weight.clone()),
            DType::F32,
        );
        let d_bias = self
            .bias
            .as_ref()
            .map(|_| d_scores.sum_dim(0).squeeze_dim(0));
        let (d_normed, of_layer) = match &self.layer {
            Some(layer) => layer.backward(inputs, of_scored),
            None => (of_scored, Vec::new()),
        };
        let input = if pooled.is_empty() {
            norm.backward(hidden.clone(), d_normed.cast(hidden.dtype()))
        } else {
            pool_backward(norm, hidden.clone(), &runs(pooled), d_normed).0
        };
        let of_map = [d_weight.reshape([-1])].into_iter().chain(d_bias);
        ScoreGradients {
            input,
            weights: of_layer.into_iter().chain(of_map).collect(),
        }
    }
}

/// Returns norm(x) of each row, or the mean of each text, in f32.
fn normed(norm: &Norm, hidden: &Tensor<2>, pooled: &[usize]) -> Tensor<2> {
    if pooled.is_empty() {
        norm.forward(hidden.clone()).cast(DType::F32)
    } else {
        pool(norm, hidden, &runs(pooled))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::score_layer::ScoreActivation;
    use super::*;

    fn numbers(rows: usize, columns: usize, step: f32) -> Tensor<2> {
        let numbers = (0..rows * columns)
            .map(|place| (place as f32 * step).sin())
            .collect();
        Tensor::from_data(TensorData::new(numbers, [rows, columns]), &Device::flex())
    }

    fn flat(tensor: Tensor<1>) -> Vec<f64> {
        tensor.into_data().iter::<f64>().collect()
    }

    /// The gradient of each number is the difference of the weighted sum of scores.
    #[test]
    fn gradients_are_differences_of_scores() {
        let (rows, width, labels) = (4, 5, 3);
        let norm = Norm {
            weight: numbers(1, width, 0.9).squeeze_dim::<1>(0),
            bias: None,
            centers: false,
            is_fixed: false,
            epsilon: 1e-5,
            offset: 0.5,
            trains: false,
        };
        let hidden = numbers(rows, width, 0.7);
        let head = ScoreHead {
            module: "score".to_owned(),
            layer: None,
            weight: numbers(labels, width, 1.3),
            bias: Some(numbers(1, labels, 0.4).squeeze_dim::<1>(0)),
        };
        let slopes: Vec<f32> = (0..rows * labels)
            .map(|place| (place as f32).cos())
            .collect();
        let sum = |head: &ScoreHead, hidden: &Tensor<2>| -> f64 {
            let scores = head.read(&norm, hidden, &[]).values;
            let products = scores.iter().zip(&slopes);
            products.map(|(z, slope)| f64::from(z * slope)).sum()
        };
        let found = head.backward(&norm, &hidden, &[], &Slopes::Each(slopes.clone()), 2.0);
        let step = |count: usize, place: usize| {
            let mut one = vec![0_f32; count];
            one[place] = 1e-2;
            one
        };
        let moved = |tensor: &Tensor<2>, place: usize, sign: f32| {
            let [rows, columns] = tensor.dims();
            let by = TensorData::new(step(rows * columns, place), [rows, columns]);
            tensor.clone() + Tensor::from_data(by, &Device::flex()).mul_scalar(sign)
        };
        let of_input = flat(found.input.reshape([-1]));
        for (place, found) in of_input.iter().enumerate() {
            let [up, down] = [1.0, -1.0].map(|sign| sum(&head, &moved(&hidden, place, sign)));
            let expected = 2.0 * (up - down) / 2e-2;
            assert!((found - expected).abs() < 2e-3, "{found}, not {expected}");
        }
        let of_weight = flat(found.weights[0].clone());
        for (place, found) in of_weight.iter().enumerate() {
            let [up, down] = [1.0, -1.0].map(|sign| {
                let head = ScoreHead {
                    weight: moved(&head.weight, place, sign),
                    ..head.clone()
                };
                sum(&head, &hidden)
            });
            let expected = 2.0 * (up - down) / 2e-2;
            assert!((found - expected).abs() < 2e-3, "{found}, not {expected}");
        }
        let of_bias = flat(found.weights[1].clone());
        for (label, found) in of_bias.iter().enumerate() {
            let own = slopes.iter().skip(label).step_by(labels);
            let expected: f32 = own.sum::<f32>() * 2.0;
            assert!((found - f64::from(expected)).abs() < 1e-5);
        }
    }

    /// The mean of the rows of a text is scored, and what trains before the map comes first.
    #[test]
    fn texts_are_scored_through_the_layer() {
        let (rows, width, labels, pooled) = (6, 5, 2, [2, 3, 6]);
        let norm = Norm {
            weight: numbers(1, width, 0.9).squeeze_dim::<1>(0),
            bias: None,
            centers: true,
            is_fixed: false,
            epsilon: 1e-5,
            offset: 0.5,
            trains: false,
        };
        let layer = ScoreLayer {
            module: "dense".to_owned(),
            weight: numbers(width, width, 0.3),
            bias: None,
            activation: ScoreActivation::Tanh,
            norm: None,
            trains: true,
        };
        let head = ScoreHead {
            module: "classifier".to_owned(),
            layer: Some(layer),
            weight: numbers(labels, width, 1.3),
            bias: None,
        };
        let hidden = numbers(rows, width, 0.7);
        let slopes: Vec<f32> = (0..pooled.len() * labels)
            .map(|place| (place as f32).cos())
            .collect();
        let sum = |hidden: &Tensor<2>| -> f64 {
            let scores = head.read(&norm, hidden, &pooled).values;
            assert_eq!(scores.len(), slopes.len());
            let products = scores.iter().zip(&slopes);
            products.map(|(z, slope)| f64::from(z * slope)).sum()
        };
        let found = head.backward(&norm, &hidden, &pooled, &Slopes::Each(slopes.clone()), 1.0);
        let sizes: Vec<[usize; 1]> = found.weights.iter().map(Tensor::dims).collect();
        assert_eq!(sizes, [[width * width], [labels * width]]);
        for (place, found) in flat(found.input.reshape([-1])).into_iter().enumerate() {
            let by = |step: f32| {
                let mut all = vec![0.0; rows * width];
                all[place] = step;
                let by = TensorData::new(all, [rows, width]);
                sum(&(hidden.clone() + Tensor::from_data(by, &Device::flex())))
            };
            let expected = (by(1e-2) - by(-1e-2)) / 2e-2;
            assert!((found - expected).abs() < 2e-3, "{found}, not {expected}");
        }
    }
}
