//! A mixer with a state per head: a short convolution, the recurrence, and a gated norm.

use burn::tensor::{DType, Tensor};

use super::frame::{BlockPlace, Frame, Site};
use super::past::Past;
use super::spec::RecurrentSpec;
use crate::nn::conv::Conv;
use crate::nn::footprint::{F32, RowShape};
use crate::nn::norm::Norm;
use crate::nn::projection::{Projection, side_by_side};
use crate::nn::weight::Weight;
use crate::ops::{Activation, Mask, Update, gated, recurrence};

/// See [`RecurrentSpec`].
#[derive(Debug, Clone)]
pub(super) struct Recurrent {
    pub(super) spec: RecurrentSpec,
    /// The projections from the stream, see [`RecurrentSpec::inputs`].
    pub(super) inputs: Vec<Projection>,
    pub(super) conv: Conv,
    /// The vectors of [`RecurrentSpec::vectors`] with their names, [value heads] each.
    pub(super) vectors: Vec<(String, Tensor<1>)>,
    /// The gated norm: of each head, or of the values that share a key head.
    pub(super) norm: Norm,
    pub(super) output: Projection,
}

impl Recurrent {
    pub(super) fn projections(&self) -> Vec<&Projection> {
        self.inputs.iter().chain([&self.output]).collect()
    }

    pub(super) fn projections_mut(&mut self) -> Vec<&mut Projection> {
        self.inputs.iter_mut().chain([&mut self.output]).collect()
    }

    /// Visits the convolution and the vectors where they train.
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        self.conv.visit(visit);
        if self.conv.trains {
            for (name, vector) in &mut self.vectors {
                visit(name, Weight::Vector(vector));
            }
        }
    }

    pub(super) fn mix(
        &self,
        x: Tensor<3>,
        place: BlockPlace,
        frame: &Frame,
        past: Option<&mut Past>,
    ) -> Tensor<3> {
        let ([batch, length, _], form) = (x.dims(), self.spec.form);
        let mask = frame.mask(place.layer, Site::AttentionInput);
        let [mixed, gate, gates] = self.project(x, mask.as_ref());
        let (window, state) = past.as_deref().map_or((None, None), Past::carried);
        let device = mixed.device();
        let state = state.unwrap_or_else(|| {
            Tensor::zeros(
                [form.value_heads, form.key_dim, form.value_dim],
                (&device, DType::F32),
            )
        });
        let seen = past
            .is_some()
            .then(|| self.conv.window_after(window.clone(), mixed.clone()));
        let mixed = self.conv.forward(mixed, window, &frame.documents);
        let vectors = self.vectors.iter().map(|(_, vector)| vector.clone());
        let vectors = Tensor::stack(vectors.collect(), 0); // [vectors, value heads]
        let (y, state) = recurrence(mixed, gates, vectors, state, form, &frame.documents);
        if let (Some(past), Some(seen)) = (past, seen) {
            past.carry(seen, Some(state), length);
        }
        self.normed(y, gate).reshape([batch, length, form.values()])
    }

    /// Returns queries, keys and values, the gate of the output, and the gates of the states,
    /// [tokens, ..] each.
    fn project(&self, x: Tensor<3>, mask: Option<&Mask>) -> [Tensor<2>; 3] {
        let ([batch, length, _], form) = (x.dims(), self.spec.form);
        let rows = |of: Tensor<3>| {
            let width = of.dims()[2];
            of.reshape([batch * length, width])
        };
        match &self.inputs[..] {
            [qkv, gate, gates @ ..] if form.update == Update::Delta => [
                rows(qkv.forward(x.clone(), mask)),
                rows(gate.forward(x.clone(), mask)),
                rows(side_by_side(gates, x, None, mask)),
            ],
            all => {
                let all = rows(side_by_side(all, x, None, mask));
                let (values, channels) = (form.values(), form.channels());
                [
                    all.clone().narrow(1, values, channels),
                    all.clone().narrow(1, 0, values),
                    all.narrow(1, values + channels, form.gates()),
                ]
            }
        }
    }

    /// Normalizes the result and multiplies it by silu(gate): after the norm, of each head, with
    /// the delta rule; before it, of the values that share a key head, in Mamba 2.
    ///
    /// # Shapes
    /// `y`, `gate` and the result [tokens, values].
    fn normed(&self, y: Tensor<2>, gate: Tensor<2>) -> Tensor<2> {
        let ([tokens, values], form) = (y.dims(), self.spec.form);
        let gated = |y| gated(Tensor::cat(vec![gate, y], 1), Activation::Silu);
        match form.update {
            Update::Delta => {
                let heads = y.reshape([tokens, form.value_heads, form.value_dim]);
                gated(self.norm.forward(heads).reshape([tokens, values]))
            }
            Update::Sum { .. } if form.key_heads == 1 => self.norm.forward(gated(y)),
            Update::Sum { .. } => {
                let (y, width) = (gated(y), values / form.key_heads);
                let of_group = |group: usize| {
                    let of_group = Norm {
                        weight: self.norm.weight.clone().narrow(0, group * width, width),
                        ..self.norm.clone()
                    };
                    of_group.forward(y.clone().narrow(1, group * width, width))
                };
                Tensor::cat((0..form.key_heads).map(of_group).collect(), 1)
            }
        }
    }
}

impl RecurrentSpec {
    /// Returns the bytes that [`Recurrent::mix`] keeps for its backward in addition to the input:
    /// what the convolution and the recurrence get, the output of the recurrence or of its gate,
    /// which the norm keeps, the gate beside it, and the result. One projection of all is kept
    /// whole.
    pub(super) fn saved_bytes(&self, rows: RowShape) -> u64 {
        let (form, whole) = (self.form, self.inputs().len() == 1);
        let values = if whole { 5 } else { 4 } * form.values();
        rows.bytes((2 * form.channels() + form.gates() + values) as u64)
    }

    /// Returns the bytes that the backward of the recurrence on a GPU holds beside its operands and
    /// their gradients.
    pub(super) fn scratch_bytes(&self, rows: RowShape) -> u64 {
        if rows.on_gpu {
            rows.tokens * self.form.gpu_scratch() as u64 * F32
        } else {
            0
        }
    }

    /// Returns the bytes of intermediate results: what is kept, the results of heads before they
    /// lie side by side, and the state of the heads that are computed.
    pub(super) fn computed_bytes(&self, rows: RowShape) -> u64 {
        self.saved_bytes(rows) + rows.bytes(self.form.values() as u64)
    }
}
