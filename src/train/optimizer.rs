//! AdamW over the adapters, as torch has it: decoupled decay, bias correction, ε outside the square root. Moments are f32.
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
    /// Share of a weight that decays, times the learning rate.
    pub weight_decay: f64,
}

/// The optimizer and its moments, in the order of the decoder's adapters.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Updates made.
    pub updates: u64,
    /// First and second moments of A and B.
    pub moments: Vec<[Moments; 2]>,
}

/// Running means of a gradient and of its square.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Of the gradient.
    pub first: Tensor<2>,
    /// Of its square.
    pub second: Tensor<2>,
}

impl Moments {
    fn zero(weight: &Tensor<2>) -> Self {
        Self { first: weight.zeros_like(), second: weight.zeros_like() }
    }
}

impl AdamW {
    /// Zero moments for the adapters that are attached.
    pub fn new(config: AdamWConfig, decoder: &Decoder) -> Self {
        let moments = decoder.adapters().map(|(_, lora)| [Moments::zero(&lora.a), Moments::zero(&lora.b)]).collect();
        Self { config, updates: 0, moments }
    }

    /// The optimizer as it was after so many updates.
    pub fn restore(config: AdamWConfig, updates: u64, moments: Vec<[Moments; 2]>) -> Self {
        Self { config, updates, moments }
    }

    /// One update of every adapter, or of none: `false` if a weight would not be finite.
    #[must_use]
    pub fn update(&mut self, decoder: &mut Decoder, gradients: Gradients, learning_rate: f64) -> bool {
        let (config, update) = (self.config, self.updates + 1);
        let adapters = decoder.adapters().zip(&self.moments).zip(gradients.into_pairs());
        let updated: Vec<_> = adapters
            .map(|(((_, lora), [of_a, of_b]), [a, b])| {
                [config.updated(&lora.a, a, of_a, learning_rate, update), config.updated(&lora.b, b, of_b, learning_rate, update)]
            })
            .collect();
        if !updated.iter().flatten().all(|(weight, _)| is_finite(weight)) {
            return false;
        }
        for ((lora, moments), [(a, of_a), (b, of_b)]) in decoder.adapters_mut().zip(&mut self.moments).zip(updated) {
            (lora.a, lora.b, *moments) = (a, b, [of_a, of_b]);
        }
        self.updates = update;
        true
    }
}

impl AdamWConfig {
    /// A weight and its moments after an update, counted from 1.
    fn updated(
        self,
        weight: &Tensor<2>,
        gradient: Tensor<2>,
        moments: &Moments,
        learning_rate: f64,
        update: u64,
    ) -> (Tensor<2>, Moments) {
        let Self { beta1, beta2, epsilon, weight_decay } = self;
        let first = moments.first.clone().mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
        let second = moments.second.clone().mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2);
        let power = i32::try_from(update).unwrap_or(i32::MAX);
        let (correction1, correction2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
        let denominator = second.clone().sqrt().div_scalar(correction2.sqrt()).add_scalar(epsilon);
        let step = first.clone().mul_scalar(learning_rate / correction1) / denominator;
        (weight.clone().mul_scalar(1.0 - learning_rate * weight_decay) - step, Moments { first, second })
    }
}

fn is_finite(weight: &Tensor<2>) -> bool {
    weight.to_data().iter::<f32>().all(f32::is_finite)
}
