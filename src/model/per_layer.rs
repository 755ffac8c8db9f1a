//! Inputs that layers have of their own for each token, beside the stream: looked up in a second
//! embedding and projected from the first, and added by each layer after its feed-forward.
//! <https://huggingface.co/docs/transformers/model_doc/gemma4>

use std::f64::consts::FRAC_1_SQRT_2;

use burn::tensor::{DType, Int, Tensor};

use super::layout::module_of;
use super::spec::PerLayerInputSpec;
use crate::nn::footprint::{RowShape, TrainedMaps};
use crate::nn::norm::Norm;
use crate::nn::projection::Projection;
use crate::nn::table::EmbeddingTable;
use crate::nn::trainable_table::{TrainableTable, Use};
use crate::nn::weight::Weight;
use crate::ops::{Mask, backward_from, gated};

/// The maps with which a layer takes its own input p: norm(W' (a(W x) · p)).
#[derive(Debug, Clone)]
pub(super) struct PerLayer {
    pub(super) spec: PerLayerInputSpec,
    /// The gate W, and the projection W' back to the stream.
    pub(super) maps: [Projection; 2],
    pub(super) norm: Norm,
    /// The module of the norm.
    pub(super) norm_name: String,
}

impl PerLayer {
    /// Returns what is added to the stream.
    ///
    /// # Shapes
    /// `x` and the result [1, tokens, width], `input` [1, tokens, width of the input].
    pub fn forward(
        &self,
        x: Tensor<3>,
        input: Tensor<3>,
        [of_gate, of_projection]: [Option<&Mask>; 2],
    ) -> Tensor<3> {
        let [gate, projection] = &self.maps;
        let [batch, tokens, width] = input.dims();
        let both = Tensor::cat(vec![gate.forward(x, of_gate), input], 2);
        let product = gated(
            both.reshape([batch * tokens, 2 * width]),
            self.spec.activation,
        );
        let product = product.reshape([batch, tokens, width]);
        self.norm
            .forward(projection.forward(product, of_projection))
    }

    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        self.maps
            .iter_mut()
            .for_each(|projection| projection.visit(visit));
        self.norm.visit(&self.norm_name, visit);
    }

    pub fn set_trains(&mut self, trains: bool) {
        self.maps
            .iter_mut()
            .for_each(|projection| projection.trains = trains);
        self.norm.trains = trains;
    }
}

impl PerLayerInputSpec {
    /// Returns the bytes that [`PerLayer::forward`] keeps for its backward: the stream, gate and
    /// input side by side, and what the norm takes.
    pub(super) fn saved_bytes(self, width: u64, rows: RowShape, maps: TrainedMaps) -> u64 {
        let [gate, projection] = maps.split_last();
        let own = self.width as u64;
        let of_map = |maps: TrainedMaps, inputs: u64| {
            let group = maps.group(inputs);
            group.saved_bytes(rows) + group.scaled_bytes(rows)
        };
        of_map(gate, width) + of_map(projection, own) + rows.bytes(width + 2 * own)
    }
}

/// Source of the inputs of all layers: (norm(W e / √width) + √p · row) / √2 with e the embedded
/// token, p the width of an input and the token's row of a table of their own.
#[derive(Debug, Clone)]
pub struct PerLayerInputs {
    /// The table, [vocabulary, layers · width of an input].
    pub(super) table: EmbeddingTable,
    /// The tensor of the table.
    pub(super) table_name: String,
    pub(super) projection: Projection,
    pub(super) norm: Norm,
    /// The module of the norm.
    pub(super) norm_name: String,
    /// Width of an input.
    pub(super) width: usize,
}

impl PerLayerInputs {
    /// Returns the inputs of all layers.
    ///
    /// # Shapes
    /// `ids` [1, tokens], `embedded` [1, tokens, width of the stream], result [1, tokens, layers,
    /// width of an input].
    pub fn forward(
        &self,
        ids: Tensor<2, Int>,
        embedded: Tensor<3>,
        mask: Option<&Mask>,
    ) -> Tensor<4> {
        let ([batch, tokens], computed) = (ids.dims(), embedded.dtype());
        let of_stream = self.of_stream(embedded, mask);
        let rows = self.table.select(ids.reshape([batch * tokens]));
        let rows = rows
            .cast(computed)
            .mul_scalar((self.width as f64).sqrt())
            .reshape(of_stream.dims());
        (of_stream + rows).mul_scalar(FRAC_1_SQRT_2)
    }

    /// Returns the part that comes from the embedded tokens.
    fn of_stream(&self, embedded: Tensor<3>, mask: Option<&Mask>) -> Tensor<4> {
        let [batch, tokens, width] = embedded.dims();
        let all = self
            .projection
            .forward(embedded, mask)
            .div_scalar((width as f64).sqrt());
        let layers = self.projection.outputs() / self.width;
        self.norm
            .forward(all.reshape([batch, tokens, layers, self.width]))
    }

    /// Whether anything of it trains.
    pub fn trains(&self) -> bool {
        self.table.own.is_some() || self.trains_projection()
    }

    fn trains_projection(&self) -> bool {
        self.projection.trains || self.projection.lora.is_some() || self.norm.trains
    }

    /// Marks whether its own weights train.
    pub(super) fn set_trains(&mut self, trains: bool) {
        self.table.own = trains.then_some(TrainableTable::Whole);
        self.projection.trains = trains;
        self.norm.trains = trains;
    }

    /// Visits the weights that train, with their names.
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        self.table
            .visit(module_of(&self.table_name), Use::Embedding, visit);
        self.visit_projection(visit);
    }

    fn visit_projection(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        self.projection.visit(visit);
        self.norm.visit(&self.norm_name, visit);
    }

    /// Returns the gradients of what trains, in the order of a visit, and that of the embedded
    /// tokens, where it is wanted, given that of the result of [`PerLayerInputs::forward`]. Rows of
    /// `padding` give the table none.
    pub(super) fn backward(
        &self,
        ids: Tensor<2, Int>,
        embedded: Tensor<3>,
        gradient: Tensor<4>,
        mask: Option<&Mask>,
        padding: Option<u32>,
        wants_embedded: bool,
    ) -> (Vec<Tensor<1>>, Option<Tensor<3>>) {
        let [batch, tokens, layers, width] = gradient.dims();
        let gradient = gradient.mul_scalar(FRAC_1_SQRT_2);
        let of_rows = gradient
            .clone()
            .reshape([batch * tokens, layers * width])
            .cast(DType::F32)
            .mul_scalar((width as f64).sqrt());
        let of_table = self
            .table
            .of_rows(ids.reshape([batch * tokens]), of_rows, padding);
        let mut gradients: Vec<_> = of_table.into_iter().map(|of| of.reshape([-1])).collect();
        if !wants_embedded && !self.trains_projection() {
            return (gradients, None);
        }
        let mut tracked = self.clone();
        tracked.visit_projection(&mut |_, weight| weight.track());
        let input = if wants_embedded {
            embedded.autodiff().require_grad()
        } else {
            embedded
        };
        let mut of_leaves = backward_from(tracked.of_stream(input.clone(), mask), gradient);
        tracked.visit_projection(&mut |_, weight| {
            gradients.push(
                weight
                    .gradient(&mut of_leaves)
                    .expect("what trains is a leaf of this tape"),
            );
        });
        (gradients, input.grad_remove(&mut of_leaves))
    }
}
