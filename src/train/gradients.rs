//! The gradients of a step, in one flat row that micro-batches are added to in place.

use std::mem::replace;

use burn::tensor::Tensor;

use super::layout::Layout;
use crate::model::Decoder;
use crate::ops::{add_at, sum_of_squares};

/// Gradients of every weight that trains, summed over trained tokens; nothing before the first micro-batch.
#[derive(Debug, Clone, Default)]
pub struct Gradients(Option<Sum>);

/// What was added up, and what it is to be multiplied by when it is used: a mean and a clip cost no pass of their own.
#[derive(Debug, Clone)]
pub(super) struct Sum {
    pub layout: Layout,
    /// In the order of the layout, [n].
    pub row: Tensor<1>,
    pub scale: f64,
}

impl Gradients {
    /// One a weight in the decoder's order, each in memory order.
    pub fn all(&self) -> Vec<Tensor<1>> {
        let of = |sum: &Sum| sum.layout.split(&sum.row.clone().mul_scalar(sum.scale));
        self.0.as_ref().map_or_else(Vec::new, of)
    }

    /// What was added up, if anything.
    pub(super) fn into_sum(self) -> Option<Sum> {
        self.0
    }

    /// What a micro-batch's gradients are added to.
    pub(super) fn sum(&mut self, decoder: &Decoder) -> &mut Sum {
        self.0.get_or_insert_with(|| {
            let layout = Layout::of(decoder);
            Sum { row: layout.zeros(&decoder.device()), layout, scale: 1.0 }
        })
    }

    /// Every gradient times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self(self.0.map(|sum| Sum { scale: sum.scale * factor, ..sum }))
    }

    /// The gradients scaled down to `max_norm` if their global L2 norm is above it, as torch's `clip_grad_norm_` does.
    #[must_use]
    pub fn clipped(self, norm: f64, max_norm: f64) -> Self {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 { self.scaled(factor) } else { self }
    }

    /// The L2 norm of all of them together, summed in a fixed order.
    pub fn norm(&self) -> f64 {
        self.0.as_ref().map_or(0.0, |sum| sum.scale * sum_of_squares(&sum.row).sqrt())
    }
}

impl Sum {
    /// Adds the gradients of some weights that follow on each other, from the weight at `index`. All are added before any is scaled.
    pub fn add(&mut self, index: usize, gradients: Vec<Tensor<1>>) {
        let placed = (index..).map(|index| self.layout.place(index)).zip(gradients).collect();
        let nothing = Tensor::empty([0], &self.row.device());
        self.row = add_at(replace(&mut self.row, nothing), placed);
    }
}
