//! The gradients of a step. Each micro-batch has one flat row, and rows are added by one tree.

use std::mem::replace;

use burn::tensor::Tensor;

use super::layout::WeightGroups;
use super::observe::Observer;
use super::tree::TreeSum;
use crate::model::{Decoder, Place};
use crate::nn::head::HeadGradients;
use crate::nn::readout::ReadoutGradients;
use crate::nn::score_head::ScoreGradients;
use crate::ops::{add_at, sum_of_squares};

/// Gradients of every weight that trains, summed over micro-batches in the order of one binary
/// tree, see [`TreeSum`].
#[derive(Debug, Clone)]
pub struct Gradients {
    /// The layout of the row, known from the first micro-batch on.
    layout: Option<WeightGroups>,
    sums: TreeSum<Sum>,
    loss_scale: f64,
}

impl Default for Gradients {
    fn default() -> Self {
        Self::of(1.0)
    }
}

/// Gradients of one micro-batch or of several, with a factor that is applied when they are used: a
/// mean and a clip need no pass of their own.
#[derive(Debug, Clone)]
pub(super) struct Sum {
    pub layout: WeightGroups,
    /// Gradients in the order of the layout, [n].
    pub row: Tensor<1>,
    pub scale: f64,
}

impl Gradients {
    /// Makes empty gradients that are multiplied by `loss_scale` while they are computed, see
    /// [`super::LossScale`]. The scale is taken out when they are read.
    pub fn of(loss_scale: f64) -> Self {
        Self {
            layout: None,
            sums: TreeSum::new(Sum::and),
            loss_scale,
        }
    }

    pub(super) fn loss_scale(&self) -> f64 {
        self.loss_scale
    }

    /// Returns one gradient per weight in the decoder's order, each in memory order; none before
    /// the first micro-batch with a trained token.
    pub fn all(&self) -> Vec<Tensor<1>> {
        let of = |sum: Sum| sum.layout.split(&sum.row.mul_scalar(sum.scale));
        self.clone().into_sum().map_or_else(Vec::new, of)
    }

    /// Returns the sum, if there is one.
    pub(super) fn into_sum(self) -> Option<Sum> {
        self.sums.total()
    }

    /// Returns zeros, to which the gradients of the next micro-batch are added.
    pub(super) fn zeros(&mut self, decoder: &Decoder) -> Sum {
        let layout = self
            .layout
            .get_or_insert_with(|| WeightGroups::of(decoder))
            .clone();
        Sum {
            row: layout.zeros(&decoder.device()),
            layout,
            scale: 1.0 / self.loss_scale,
        }
    }

    /// Adds the next micro-batch; `None` where it has no gradients.
    pub(super) fn push(&mut self, micro_batch: Option<Sum>) {
        self.sums.push(micro_batch);
    }

    /// Returns every gradient times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let Self {
            layout,
            sums,
            loss_scale,
        } = self;
        let scaled = sums.total().map(|sum| Sum {
            scale: sum.scale * factor,
            ..sum
        });
        let mut sums = TreeSum::new(Sum::and);
        sums.push(scaled);
        Self {
            layout,
            sums,
            loss_scale,
        }
    }

    /// Returns the gradients scaled down to `max_norm` if their global L2 norm is above it, as
    /// torch's `clip_grad_norm_` does.
    #[must_use]
    pub fn clipped(self, norm: f64, max_norm: f64) -> Self {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            self.scaled(factor)
        } else {
            self
        }
    }

    /// Returns the L2 norm of all gradients together, summed in a fixed order.
    pub fn norm(&self) -> f64 {
        self.clone()
            .into_sum()
            .map_or(0.0, |sum| sum.scale * sum_of_squares(&sum.row).sqrt())
    }
}

impl Sum {
    /// Adds the gradients of lower micro-batches and of those that follow.
    fn and(self, upper: Self) -> Self {
        let place = 0..self.row.dims()[0];
        Self {
            row: add_at(self.row, vec![(place, upper.row)]),
            ..self
        }
    }

    /// Adds the gradients of the weights of a place, as the observer passes them on. All are added
    /// before any is scaled.
    pub fn add(&mut self, place: Place, gradients: Vec<Tensor<1>>, observer: &mut impl Observer) {
        if gradients.is_empty() {
            return;
        }
        let first = self.layout.first(place);
        let gradients = observer.weights(first, gradients);
        let placed = (first..)
            .map(|index| self.layout.place(index))
            .zip(gradients)
            .collect();
        let nothing = Tensor::empty([0], &self.row.device());
        self.row = add_at(replace(&mut self.row, nothing), placed);
    }

    /// Adds the gradients of what trains of the readout; returns the gradient of its input.
    pub fn add_readout(
        &mut self,
        decoder: &Decoder,
        gradients: ReadoutGradients,
        observer: &mut impl Observer,
    ) -> Tensor<2> {
        let HeadGradients {
            input,
            norm,
            table,
            bias,
        } = match gradients {
            ReadoutGradients::Tokens(gradients) => gradients,
            ReadoutGradients::Scores(ScoreGradients { input, weights }) => {
                self.add(Place::Readout, weights, observer);
                return input;
            }
        };
        let table: Vec<Tensor<1>> = table
            .into_iter()
            .map(|of_table| of_table.reshape([-1]))
            .collect();
        if decoder.shares_tables() {
            self.add(Place::Embedding, table, observer);
            self.add(
                Place::Readout,
                norm.into_iter().chain(bias).collect(),
                observer,
            );
        } else {
            self.add(
                Place::Readout,
                norm.into_iter().chain(table).chain(bias).collect(),
                observer,
            );
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;

    use super::*;
    use crate::model::Folder;

    #[test]
    fn they_are_added_where_they_belong_and_clipped_as_by_torch() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/llama/model");
        let mut decoder = Folder::open(&base)
            .expect("a base")
            .load(crate::terms::ModelDtype::Auto, &Device::flex(), &|_| {})
            .expect("loaded");
        decoder.train_everything();
        let (mut gradients, numbers) = (Gradients::default(), decoder.numbers());
        assert_eq!((gradients.norm().to_bits(), gradients.all().len()), (0, 0));
        let blocks = (0..decoder.blocks.len()).map(Place::Segment);
        let places: Vec<Place> = [Place::Embedding]
            .into_iter()
            .chain(blocks)
            .chain([Place::Readout])
            .collect();
        let mut sum = gradients.zeros(&decoder);
        for place in places.iter().rev().chain(&places) {
            let (first, end) = (
                sum.layout.first(*place),
                places.iter().find(|other| *other > place),
            );
            let end = end.map_or(numbers.len(), |next| sum.layout.first(*next));
            sum.add(*place, numbers[first..end].to_vec(), &mut ());
        }
        gradients.push(Some(sum));
        let expected: Vec<f32> = numbers
            .iter()
            .flat_map(|numbers| numbers.to_data().iter::<f32>().collect::<Vec<_>>())
            .collect();
        let norm = expected
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();

        let mean = gradients.scaled(0.25);
        assert!(
            (mean.norm() / (0.5 * norm) - 1.0).abs() < 1e-12,
            "{} and {norm}",
            mean.norm()
        );
        let values = |gradients: &Gradients| {
            gradients
                .all()
                .into_iter()
                .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>())
        };
        assert!(
            values(&mean)
                .zip(&expected)
                .all(|(ours, theirs)| ours.to_bits() == (0.5 * theirs).to_bits())
        );
        let at = mean.norm();
        assert_eq!(
            mean.clone().clipped(at, at + 1.0).norm().to_bits(),
            at.to_bits(),
            "a norm below the bound"
        );
        let clipped = mean.clipped(at, 0.1).norm();
        assert!(
            (clipped / (0.1 * at / (at + 1e-6)) - 1.0).abs() < 1e-12,
            "{clipped}"
        );
    }
}
