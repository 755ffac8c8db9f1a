//! AdamW over the weights that train, as torch has it: decoupled decay, bias correction, ε outside the square root. Moments are f32.
//!
//! Loshchilov and Hutter 2019, arXiv:1711.05101.

use burn::tensor::Tensor;

use super::step::Gradients;
use crate::model::Decoder;

/// Hyperparameters of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a matrix that decays, times the learning rate. Norms and biases do not.
    pub weight_decay: f64,
}

/// The optimizer and its moments, one a weight in the decoder's order.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Updates made.
    pub updates: u64,
    /// First and second moments.
    pub moments: Vec<Moments>,
}

/// Running means of a gradient and of its square, in memory order.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Of the gradient.
    pub first: Tensor<1>,
    /// Of its square.
    pub second: Tensor<1>,
}

impl AdamW {
    /// Zero moments for the weights that train.
    pub fn new(config: AdamWConfig, decoder: &Decoder) -> Self {
        let zeros = |numbers: Tensor<1>| Moments { first: numbers.zeros_like(), second: numbers.zeros_like() };
        Self { config, updates: 0, moments: decoder.numbers().into_iter().map(zeros).collect() }
    }

    /// The optimizer as it was after so many updates.
    pub fn restore(config: AdamWConfig, updates: u64, moments: Vec<Moments>) -> Self {
        Self { config, updates, moments }
    }

    /// One update of every weight, or of none: `false` if a weight would not be finite.
    #[must_use]
    pub fn update(&mut self, decoder: &mut Decoder, gradients: Gradients, learning_rate: f64) -> bool {
        let (undecayed, update) = (AdamWConfig { weight_decay: 0.0, ..self.config }, self.updates + 1);
        let mut given = self.moments.iter().zip(gradients.into_all());
        let updated = decoder.weights(|_, weight| {
            let config = if weight.decays() { self.config } else { undecayed };
            let (moments, gradient) = given.next().expect("one a weight");
            config.updated(weight.numbers(), gradient, moments, learning_rate, update)
        });
        if !updated.iter().all(|(numbers, _)| is_finite(numbers)) {
            return false;
        }
        let (numbers, moments): (Vec<_>, Vec<_>) = updated.into_iter().unzip();
        let mut numbers = numbers.into_iter();
        decoder.visit(&mut |_, weight| weight.put(numbers.next().expect("one a weight")));
        (self.moments, self.updates) = (moments, update);
        true
    }
}

impl AdamWConfig {
    /// A weight and its moments after an update, counted from 1.
    fn updated(
        self,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        moments: &Moments,
        learning_rate: f64,
        update: u64,
    ) -> (Tensor<1>, Moments) {
        let Self { beta1, beta2, epsilon, weight_decay } = self;
        let first = moments.first.clone().mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
        let second = moments.second.clone().mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2);
        let power = i32::try_from(update).unwrap_or(i32::MAX);
        let (correction1, correction2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
        let denominator = second.clone().sqrt().div_scalar(correction2.sqrt()).add_scalar(epsilon);
        let step = first.clone().mul_scalar(learning_rate / correction1) / denominator;
        (weight.mul_scalar(1.0 - learning_rate * weight_decay) - step, Moments { first, second })
    }
}

fn is_finite(weight: &Tensor<1>) -> bool {
    weight.to_data().iter::<f32>().all(f32::is_finite)
}
