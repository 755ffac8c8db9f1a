//! Rules that treat every number alike: they update rows [weights, n] by their gradients.

use burn::tensor::Tensor;

use super::AdamWConfig;

/// Values that the numbers of an update share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// η, the learning rate of the weight.
    pub learning_rate: f64,
    /// λ, the weight decay.
    pub weight_decay: f64,
    /// t, the number of the update, from 1.
    pub update: u64,
}

impl Rates {
    /// Returns β to the power of t.
    fn power(self, beta: f64) -> f64 {
        beta.powi(i32::try_from(self.update).unwrap_or(i32::MAX))
    }

    /// Returns w (1 - η λ).
    pub fn decayed<const D: usize>(self, weights: Tensor<D>) -> Tensor<D> {
        weights.mul_scalar(1.0 - self.learning_rate * self.weight_decay)
    }
}

/// Weights and states after an update.
pub(super) type Updated = (Tensor<2>, Vec<Tensor<2>>);

/// Returns the next value of a decaying mean.
pub(super) fn mean(before: Tensor<2>, beta: f64, now: Tensor<2>) -> Tensor<2> {
    before.mul_scalar(beta) + now.mul_scalar(1.0 - beta)
}

/// Returns g / (√v / √(1 - β₂ᵗ) + ε).
fn preconditioned(
    numbers: Tensor<2>,
    second: Tensor<2>,
    config: AdamWConfig,
    rates: Rates,
) -> Tensor<2> {
    let root = (1.0 - rates.power(config.beta2)).sqrt();
    numbers / second.sqrt().div_scalar(root).add_scalar(config.epsilon)
}

/// The rule of [`AdamW`](super::AdamW), with the states m and v.
pub(super) fn adamw(
    weights: Tensor<2>,
    gradients: Tensor<2>,
    states: [Tensor<2>; 2],
    config: AdamWConfig,
    rates: Rates,
) -> Updated {
    let [first, second] = states;
    let first = mean(first, config.beta1, gradients.clone());
    let second = mean(second, config.beta2, gradients.square());
    let step = rates.learning_rate / (1.0 - rates.power(config.beta1));
    let update = preconditioned(
        first.clone().mul_scalar(step),
        second.clone(),
        config,
        rates,
    );
    (rates.decayed(weights) - update, vec![first, second])
}

/// The rule of Lion: w ← (1 - η λ) w - η sign(β₁ m + (1 - β₁) g), then m ← β₂ m + (1 - β₂) g, Chen
/// et al. 2023, arXiv:2302.06675.
pub(super) fn lion(
    weights: Tensor<2>,
    gradients: Tensor<2>,
    momentum: Tensor<2>,
    config: AdamWConfig,
    rates: Rates,
) -> Updated {
    let direction = mean(momentum.clone(), config.beta1, gradients.clone()).sign();
    let weights = rates.decayed(weights) - direction.mul_scalar(rates.learning_rate);
    (weights, vec![mean(momentum, config.beta2, gradients)])
}

/// The rule of schedule-free `AdamW`, with the states z and v, where `share` is the weight c of the
/// new z in the average:
///
/// ```text
/// d = g / (√v̂ + ε) + λ y        z ← z - η d
/// y ← (1 - c) y + c z + η (β₁ (1 - c) - 1) d, of the z before
/// ```
///
/// The average is x = y + (z - y) (1 - 1 / β₁). Defazio et al. 2024, arXiv:2405.15682, in the form
/// of the authors' `schedulefree`.
pub(super) fn schedule_free(
    weights: Tensor<2>,
    gradients: Tensor<2>,
    states: [Tensor<2>; 2],
    config: AdamWConfig,
    rates: Rates,
    share: f64,
) -> Updated {
    let [fast, second] = states;
    let second = mean(second, config.beta2, gradients.clone().square());
    let direction = preconditioned(gradients, second.clone(), config, rates)
        + weights.clone().mul_scalar(rates.weight_decay);
    let back = rates.learning_rate * (config.beta1 * (1.0 - share) - 1.0);
    let moved = weights.clone()
        + (fast.clone() - weights).mul_scalar(share)
        + direction.clone().mul_scalar(back);
    (
        moved,
        vec![fast - direction.mul_scalar(rates.learning_rate), second],
    )
}

/// Returns the average of the training point and the fast sequence; the training point where the
/// two are the same.
pub(super) fn averaged(weights: Tensor<2>, fast: Tensor<2>, beta1: f64) -> Tensor<2> {
    weights.clone() + (fast - weights).mul_scalar(1.0 - 1.0 / beta1)
}
