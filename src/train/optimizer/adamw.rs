//! AdamW over the weights that train, as in torch: decoupled decay, bias correction, ε outside the
//! square root. Moments are f32.
//!
//! Loshchilov and Hutter 2019, arXiv:1711.05101; with `loraplus_lr_ratio`, `LoRA+` of Hayou et al.
//! 2024, arXiv:2402.12354.

use std::mem::replace;
use std::ops::Range;

use burn::tensor::Tensor;

use super::super::gradients::{Gradients, Sum};
use super::super::layout::WeightGroups;
use crate::model::Decoder;
use crate::nn::weight::Group;
use crate::ops::{AdamWRule, AdamWState, Segment, adamw};

/// Hyperparameters of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay of matrices, as a multiple of their learning rate. Norms and biases have none.
    pub weight_decay: f64,
    /// The learning rate of an adapter's B as a multiple of A's: `LoRA+`, arXiv:2402.12354. 1 turns
    /// it off.
    pub loraplus_lr_ratio: f64,
}

/// The optimizer and its moments.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    layout: WeightGroups,
    /// Number of updates made.
    pub updates: u64,
    /// Running means of the gradients and of their squares, each a row in the order of the layout.
    moments: [Tensor<1>; 2],
}

impl AdamW {
    /// Makes an optimizer with zero moments for the weights that train.
    pub fn new(config: AdamWConfig, decoder: &Decoder) -> Self {
        let (layout, device) = (WeightGroups::of(decoder), decoder.device());
        Self {
            config,
            updates: 0,
            moments: [layout.zeros(&device), layout.zeros(&device)],
            layout,
        }
    }

    /// Makes the optimizer as it was after `updates` updates, with first and second moments in the
    /// order of [`AdamW::moments`].
    pub fn restore(
        config: AdamWConfig,
        decoder: &Decoder,
        updates: u64,
        moments: [Vec<Tensor<1>>; 2],
    ) -> Self {
        let (layout, device) = (WeightGroups::of(decoder), decoder.device());
        Self {
            config,
            updates,
            moments: moments.map(|numbers| layout.join(numbers, &device)),
            layout,
        }
    }

    /// Returns first and second moments, one tensor per weight in the decoder's order, each in
    /// memory order.
    pub fn moments(&self) -> [Vec<Tensor<1>>; 2] {
        self.moments.each_ref().map(|row| self.layout.split(row))
    }

    /// Updates every weight, or none: `false` if a weight or a moment would not be finite, or if
    /// there are no gradients. `learning_rate` applies to all weights except B of adapters, where
    /// those have a rate of their own.
    #[must_use]
    pub fn update(
        &mut self,
        decoder: &mut Decoder,
        gradients: Gradients,
        learning_rate: f64,
    ) -> bool {
        gradients
            .into_sum()
            .is_some_and(|gradients| self.update_by(decoder, gradients, learning_rate))
    }

    pub(super) fn update_by(
        &mut self,
        decoder: &mut Decoder,
        gradients: Sum,
        learning_rate: f64,
    ) -> bool {
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            ..
        } = self.config;
        let rule = AdamWRule {
            beta1,
            beta2,
            epsilon,
            gradient_scale: gradients.scale,
            update: self.updates + 1,
        };
        let segments: Vec<_> = self
            .layout
            .places()
            .map(|(group, place)| self.config.segment(group, place, learning_rate))
            .collect();
        // What nobody else holds is updated in place.
        let nothing = Tensor::empty([0], &decoder.device());
        let [first, second] = self
            .moments
            .each_mut()
            .map(|row| replace(row, nothing.clone()));
        let state = AdamWState {
            weights: decoder.take(),
            first,
            second,
        };
        let (state, updated) = match adamw(state, gradients.row, &segments, rule) {
            Ok(state) => (state, true),
            Err(state) => (state, false),
        };
        decoder.put(state.weights);
        (self.moments, self.updates) = (
            [state.first, state.second],
            self.updates + u64::from(updated),
        );
        updated
    }
}

impl AdamWConfig {
    /// Returns the learning rate of a weight and its decay.
    pub(super) fn rates(self, group: Group, learning_rate: f64) -> [f64; 2] {
        match group {
            Group::Matrix => [learning_rate, self.weight_decay],
            Group::LoraB => [learning_rate * self.loraplus_lr_ratio, self.weight_decay],
            Group::Vector => [learning_rate, 0.0],
        }
    }

    fn segment(self, group: Group, place: Range<usize>, learning_rate: f64) -> Segment {
        let [learning_rate, weight_decay] = self.rates(group, learning_rate);
        Segment {
            place,
            learning_rate,
            weight_decay,
        }
    }
}
