//! The load-balancing loss of routed experts.
//!
//! It is E Σ f p over E experts, with f the share of tokens sent to an expert and p the mean of its
//! probability, both over the tokens of all layers (Fedus et al. 2021, arXiv:2101.03961, equations
//! 4 to 6, as `load_balancing_loss_func` of <https://github.com/huggingface/transformers> has
//! them).

use crate::model::DecoderSpec;
use crate::nn::experts::Load;

/// The load of the experts of all layers.
#[derive(Debug, Clone)]
pub(super) struct Balance {
    /// The coefficient of the loss.
    coefficient: f64,
    chosen: usize,
    choices: Vec<u64>,
    probabilities: Vec<f64>,
}

impl Balance {
    /// Makes an empty balance; `None` where the loss has no weight.
    pub fn of(spec: &DecoderSpec) -> Option<Self> {
        let router = &spec
            .layers
            .iter()
            .find_map(|layer| layer.mlp.experts())?
            .router;
        let (choices, probabilities) = (vec![0; router.experts], vec![0.0; router.experts]);
        let coefficient = spec.router_aux_loss_coef;
        (coefficient > 0.0).then_some(Self {
            coefficient,
            chosen: router.chosen,
            choices,
            probabilities,
        })
    }

    /// Adds the load of a layer.
    pub fn add(&mut self, load: &Load) {
        self.choices
            .iter_mut()
            .zip(&load.choices)
            .for_each(|(sum, choices)| *sum += choices);
        let probabilities = load.probabilities.to_data();
        self.probabilities
            .iter_mut()
            .zip(probabilities.iter::<f32>())
            .for_each(|(sum, of)| *sum += f64::from(of));
    }

    /// Returns the balance with the coefficient times `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            coefficient: self.coefficient * factor,
            ..self
        }
    }

    /// Returns the number of tokens of all layers.
    fn tokens(&self) -> f64 {
        self.choices.iter().sum::<u64>() as f64 / self.chosen as f64
    }

    /// Returns the contribution to the loss.
    pub fn loss(&self) -> f64 {
        let sum: f64 = self
            .choices
            .iter()
            .zip(&self.probabilities)
            .map(|(choices, sum)| *choices as f64 * sum)
            .sum();
        self.coefficient * self.choices.len() as f64 * sum / self.tokens().powi(2)
    }

    /// Returns the gradient of a layer's sums of probabilities, times `scale`. How often an expert
    /// was chosen is a constant.
    pub fn gradient(&self, scale: f64) -> Vec<f32> {
        let factor = scale * self.coefficient * self.choices.len() as f64 / self.tokens().powi(2);
        self.choices
            .iter()
            .map(|choices| (factor * *choices as f64) as f32)
            .collect()
    }
}
