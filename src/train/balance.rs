//! The load-balancing loss of routed experts: E Σ f p over E experts, with f the share of tokens
//! that came to one and p the mean of its probability, both over the tokens of all layers (Fedus et
//! al. 2021, arXiv:2101.03961, equations 4 to 6, as `load_balancing_loss_func` of
//! <https://github.com/huggingface/transformers> has them).

use crate::model::DecoderSpec;
use crate::nn::experts::Load;

/// What came to the experts of all layers.
#[derive(Debug, Clone)]
pub(super) struct Balance {
    /// What the loss counts.
    coefficient: f64,
    chosen: usize,
    choices: Vec<u64>,
    probabilities: Vec<f64>,
}

impl Balance {
    /// Of nothing yet; `None` where the loss does not count.
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

    /// Takes in a layer.
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

    /// The same where the loss counts so many times.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            coefficient: self.coefficient * factor,
            ..self
        }
    }

    /// Tokens of all layers.
    fn tokens(&self) -> f64 {
        self.choices.iter().sum::<u64>() as f64 / self.chosen as f64
    }

    /// What it adds to the loss.
    pub fn loss(&self) -> f64 {
        let sum: f64 = self
            .choices
            .iter()
            .zip(&self.probabilities)
            .map(|(choices, sum)| *choices as f64 * sum)
            .sum();
        self.coefficient * self.choices.len() as f64 * sum / self.tokens().powi(2)
    }

    /// The gradient of a layer's sums of probabilities, times `scale`: how often an expert was
    /// chosen is a constant.
    pub fn gradient(&self, scale: f64) -> Vec<f32> {
        let factor = scale * self.coefficient * self.choices.len() as f64 / self.tokens().powi(2);
        self.choices
            .iter()
            .map(|choices| (factor * *choices as f64) as f32)
            .collect()
    }
}
