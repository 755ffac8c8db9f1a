//! Attention of a block: heads with keys and values of their own, or with keys and values from one
//! narrow row per token; or states in their place, see `recurrent`.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::block_io::KeyValueRows;
use super::convolution::Convolution;
use super::frame::{BlockPlace, Frame, Site};
use super::past::Past;
use super::recurrent::Recurrent;
use super::spec::{
    GroupedSpec, KeyValues, LatentSpec, MixerSpec, Modules, OutputGate, QueryKeyNorm,
};
use crate::nn::footprint::{ProjectionGroup, RowShape, TrainedMaps};
use crate::nn::norm::Norm;
use crate::nn::projection::{Projection, side_by_side};
use crate::nn::weight::Weight;
use crate::ops::{Mask, Score, attention_with_sinks};

/// The attention of a block.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "one a block, and the largest is what most blocks have"
)]
pub(super) enum Mixer {
    Grouped(Grouped),
    Latent(Box<Latent>),
    Recurrent(Box<Recurrent>),
    Convolution(Box<Convolution>),
}

impl Mixer {
    /// Returns the result of the heads before the output projection, [batch, tokens, heads · width
    /// of values], and keys and values where a higher block uses them. `lent` are those of a lower
    /// block, where this one has none.
    pub(super) fn mix(
        &self,
        x: Tensor<3>,
        lent: Option<KeyValueRows>,
        place: BlockPlace,
        frame: &Frame,
        past: Option<&mut Past>,
    ) -> (Tensor<3>, Option<KeyValueRows>) {
        match self {
            Self::Grouped(grouped) => grouped.mix(x, lent, place, frame, past),
            Self::Latent(latent) => (latent.mix(x, place, frame, past), None),
            Self::Recurrent(recurrent) => (recurrent.mix(x, place, frame, past), None),
            Self::Convolution(convolution) => (convolution.mix(x, place, frame, past), None),
        }
    }

    /// Returns the output projection.
    pub(super) fn output(&self) -> &Projection {
        match self {
            Self::Grouped(grouped) => &grouped.output,
            Self::Latent(latent) => &latent.output,
            Self::Recurrent(recurrent) => &recurrent.output,
            Self::Convolution(convolution) => &convolution.output,
        }
    }

    /// Returns the projections in checkpoint order.
    pub(super) fn projections(&self) -> Vec<&Projection> {
        match self {
            Self::Grouped(Grouped {
                qkv, gate, output, ..
            }) => qkv.iter().chain(gate).chain([output]).collect(),
            Self::Latent(latent) => latent.projections(),
            Self::Recurrent(recurrent) => recurrent.projections(),
            Self::Convolution(convolution) => vec![&convolution.input, &convolution.output],
        }
    }

    /// Returns the projections in checkpoint order.
    pub(super) fn projections_mut(&mut self) -> Vec<&mut Projection> {
        match self {
            Self::Grouped(Grouped {
                qkv, gate, output, ..
            }) => qkv.iter_mut().chain(gate).chain([output]).collect(),
            Self::Latent(latent) => latent.projections_mut(),
            Self::Recurrent(recurrent) => recurrent.projections_mut(),
            Self::Convolution(convolution) => {
                vec![&mut convolution.input, &mut convolution.output]
            }
        }
    }

    /// Visits the weights that train and are neither projections nor norms.
    pub(super) fn visit_own(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        match self {
            Self::Grouped(_) | Self::Latent(_) => {}
            Self::Recurrent(recurrent) => recurrent.visit(visit),
            Self::Convolution(convolution) => convolution.conv.visit(visit),
        }
    }

    /// Marks whether weights train that are neither projections nor norms.
    pub(super) fn set_own_trains(&mut self, trains: bool) {
        match self {
            Self::Grouped(_) | Self::Latent(_) => {}
            Self::Recurrent(recurrent) => recurrent.conv.trains = trains,
            Self::Convolution(convolution) => convolution.conv.trains = trains,
        }
    }

    /// Returns the norms of queries and of keys, or that of the result of states.
    pub(super) fn norms_mut(&mut self) -> [Option<&mut Norm>; 2] {
        match self {
            Self::Grouped(grouped) => grouped.norms.each_mut().map(Option::as_mut),
            Self::Latent(latent) => {
                let of_query = if let Query::Narrow { norm, .. } = &mut latent.query {
                    Some(norm)
                } else {
                    None
                };
                [of_query, Some(&mut latent.kv_norm)]
            }
            Self::Recurrent(recurrent) => [Some(&mut recurrent.norm), None],
            Self::Convolution(_) => [None, None],
        }
    }
}

impl MixerSpec {
    /// Returns the projections from the stream, and the one back to it. The result of attention is
    /// kept once, except for what dropout leaves of it where magnitudes scale.
    pub(super) fn groups(
        &self,
        width: u64,
        rows: RowShape,
        maps: TrainedMaps,
    ) -> [ProjectionGroup; 2] {
        let [input, output] = maps.split_last();
        let [queries, _] = self.head_widths(); // those of values, where there are states
        let dropped = if rows.drops && output.group(0).scaled > 0 {
            queries
        } else {
            0
        };
        [input.group(width), output.group(dropped)]
    }

    /// Returns the bytes that [`Mixer::mix`] keeps for its backward in addition to the input: the
    /// numbers that queries and keys are made of, queries, keys and values after the rotation, the
    /// result, and the logarithm of each query's sum. The rotation keeps nothing.
    pub(super) fn saved_bytes(&self, rows: RowShape) -> u64 {
        match self {
            Self::Recurrent(recurrent) => return recurrent.saved_bytes(rows),
            Self::Convolution(convolution) => return convolution.saved_bytes(rows),
            Self::Grouped(_) | Self::Latent(_) => {}
        }
        let ([queries, keys], [heads, ..]) = (self.head_widths(), self.heads());
        // Another block keeps those that are lent.
        let own_keys = if self.source().is_some() { 0 } else { keys };
        rows.bytes(self.way() + 2 * queries + 2 * own_keys + heads as u64)
    }

    /// Returns the bytes of keys and values.
    pub(super) fn key_value_bytes(&self, rows: RowShape) -> u64 {
        rows.bytes(2 * self.head_widths()[1])
    }

    /// Returns the bytes of intermediate results: queries, keys and values, and the result in tiles
    /// and as a whole. A backward takes as many for their gradients.
    pub(super) fn computed_bytes(&self, rows: RowShape) -> u64 {
        match self {
            Self::Recurrent(recurrent) => return recurrent.computed_bytes(rows),
            Self::Convolution(convolution) => return convolution.saved_bytes(rows),
            Self::Grouped(_) | Self::Latent(_) => {}
        }
        let [queries, keys] = self.head_widths();
        rows.bytes(3 * queries + 2 * keys + self.way())
    }

    /// Returns the bytes that a backward holds beside these and their gradients.
    pub(super) fn scratch_bytes(&self, rows: RowShape) -> u64 {
        match self {
            Self::Recurrent(recurrent) => recurrent.scratch_bytes(rows),
            Self::Convolution(_) | Self::Grouped(_) | Self::Latent(_) => 0,
        }
    }

    /// Returns the bytes of all query heads.
    pub(super) fn query_bytes(&self, rows: RowShape) -> u64 {
        rows.bytes(self.head_widths()[0])
    }

    /// Returns the widths of all query heads, and of all key heads, in attention.
    fn head_widths(&self) -> [u64; 2] {
        let [heads, kv_heads, head_dim] = self.heads();
        let head_dim = match self {
            Self::Grouped(_) | Self::Recurrent(_) | Self::Convolution(_) => head_dim,
            Self::Latent(latent) => head_dim.max(latent.value_dim),
        };
        [heads, kv_heads].map(|heads| (heads * head_dim) as u64)
    }

    /// Returns how many numbers per token are kept on the way to queries, keys and values: those
    /// before the norms of heads; or narrow rows before and after their norms, and the parts
    /// joined.
    fn way(&self) -> u64 {
        let numbers = match self {
            Self::Grouped(GroupedSpec {
                heads,
                kv_heads,
                head_dim,
                qk_norm,
                qkv,
                gate,
                key_values,
                value_norm,
                ..
            }) => {
                let (own_keys, own_values) = match key_values {
                    KeyValues::Projected => (*kv_heads, *kv_heads),
                    // Values are made of what keys are made of.
                    KeyValues::KeysAsValues => (*kv_heads, 0),
                    KeyValues::OfLayer(_) => (0, 0),
                };
                let before_norms = if *qk_norm == QueryKeyNorm::None {
                    0
                } else {
                    (heads + own_keys) * head_dim
                };
                let before_value_norm = if *value_norm {
                    own_values * head_dim
                } else {
                    0
                };
                // Queries and gates in one, the gates, and the result before them.
                let gates = match gate {
                    OutputGate::None => 0,
                    OutputGate::Features => 3 * heads * head_dim,
                    OutputGate::Heads(_) => heads + heads * head_dim,
                };
                // Groups are put in order.
                before_norms
                    + gates
                    + before_value_norm
                    + if *qkv == Modules::FusedByGroup {
                        (heads + 2 * kv_heads) * head_dim
                    } else {
                        0
                    }
            }
            Self::Latent(LatentSpec {
                query_rank,
                kv_rank,
                rope_dim,
                ..
            }) => 2 * query_rank.unwrap_or(0) + 2 * (kv_rank + rope_dim),
            Self::Recurrent(_) | Self::Convolution(_) => 0,
        };
        numbers as u64
    }
}

/// Grouped attention, see [`GroupedSpec`].
#[derive(Debug, Clone)]
pub(super) struct Grouped {
    pub(super) spec: GroupedSpec,
    /// The projections of q, k and v, as far as the layer has them, or one of all three.
    pub(super) qkv: Vec<Projection>,
    /// Norms of queries and of keys.
    pub(super) norms: [Option<Norm>; 2],
    /// The norm of values, which has no weight: ones stand in its place.
    pub(super) value_norm: Option<Norm>,
    /// The projection of gates, one per head.
    pub(super) gate: Option<Projection>,
    /// Sinks, one per head.
    pub(super) sinks: Option<Arc<[f32]>>,
    pub(super) output: Projection,
}

impl Grouped {
    fn mix(
        &self,
        x: Tensor<3>,
        lent: Option<KeyValueRows>,
        place: BlockPlace,
        frame: &Frame,
        past: Option<&mut Past>,
    ) -> (Tensor<3>, Option<KeyValueRows>) {
        let [batch, length, _] = x.dims();
        let GroupedSpec {
            heads,
            kv_heads,
            head_dim,
            score_scale,
            softcap,
            ..
        } = self.spec;
        let mask = frame.mask(place.layer, Site::AttentionInput);
        let (query, own, gate) = self.project(x, mask.as_ref());
        let [of_query, of_key] = self.norms.each_ref().map(Option::as_ref);
        let rope = place.rope.map(|rope| &frame.ropes[rope]);
        let query = self.heads_of(query, heads, of_query, |query| match rope {
            Some(rope) => rope.rotate_queries(query, frame.positions.clone()),
            None => query,
        });
        let own = own.map(|[key, value]| {
            let key = self.heads_of(key, kv_heads, of_key, |key| match rope {
                Some(rope) => rope.rotate_keys(key, frame.positions.clone()),
                None => key,
            });
            let value: Tensor<4> = value.reshape([batch, length, kv_heads, head_dim]);
            let value = match &self.value_norm {
                Some(norm) => norm.forward(value),
                None => value,
            };
            match past {
                Some(past) => past.extend([key, value]),
                None => [key, value],
            }
        });
        let [key, value] = own
            .or(lent)
            .expect("a block without keys is given those of a lower one");
        let given = place.is_source.then(|| [key.clone(), value.clone()]);
        let score = Score {
            scale: score_scale as f32,
            softcap: softcap.map(|cap| cap as f32),
        };
        let mixed = attention_with_sinks(
            query,
            key,
            value,
            &frame.seen[place.span],
            score,
            self.sinks.as_ref(),
        );
        let mixed = match gate {
            None => mixed,
            Some(gate) => {
                let each = gate.dims()[2] / heads;
                mixed * sigmoid(gate.reshape([batch, length, heads, each]))
            }
        };
        (mixed.reshape([batch, length, heads * head_dim]), given)
    }

    /// Splits queries or keys into heads, with their norm before or after the rotation, [batch,
    /// length, heads, d].
    fn heads_of(
        &self,
        mut of: Tensor<3>,
        heads: usize,
        norm: Option<&Norm>,
        rotated: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let GroupedSpec {
            head_dim, qk_norm, ..
        } = self.spec;
        let norm = |kind: QueryKeyNorm| norm.filter(|_| qk_norm == kind);
        if let Some(norm) = norm(QueryKeyNorm::Whole) {
            of = norm.forward(of);
        }
        let [batch, length, _] = of.dims();
        let mut of: Tensor<4> = of.reshape([batch, length, heads, head_dim]);
        if let Some(norm) = norm(QueryKeyNorm::Heads) {
            of = norm.forward(of);
        }
        let of = rotated(of);
        match norm(QueryKeyNorm::HeadsAfterRotation) {
            Some(norm) => norm.forward(of),
            None => of,
        }
    }

    /// Returns queries, the layer's own keys and values, [batch, sequence, heads · d] each, and the
    /// gates of the result, one per feature or head.
    fn project(
        &self,
        x: Tensor<3>,
        mask: Option<&Mask>,
    ) -> (Tensor<3>, Option<[Tensor<3>; 2]>, Option<Tensor<3>>) {
        let of_heads = self.gate.as_ref();
        let of_heads = of_heads.map(|gate| gate.forward(x.clone(), mask));
        let (query, own) = self.project_qkv(x, mask);
        if self.spec.gate != OutputGate::Features {
            return (query, own, of_heads);
        }
        let ([batch, length, _], head_dim) = (query.dims(), self.spec.head_dim);
        let both = query.reshape([batch * length, self.spec.heads, 2 * head_dim]);
        let [query, gate] = [0, head_dim].map(|start| {
            let width = self.spec.heads * head_dim;
            both.clone()
                .narrow(2, start, head_dim)
                .reshape([batch, length, width])
        });
        (query, own, Some(gate))
    }

    fn project_qkv(
        &self,
        x: Tensor<3>,
        mask: Option<&Mask>,
    ) -> (Tensor<3>, Option<[Tensor<3>; 2]>) {
        let GroupedSpec {
            heads,
            kv_heads,
            head_dim,
            qkv,
            ..
        } = self.spec;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        if qkv == Modules::Separate {
            let mut each = self
                .qkv
                .iter()
                .map(|projection| projection.forward(x.clone(), mask));
            let query = each.next().expect("the layout lists it");
            let (key, value) = (each.next(), each.next());
            return (query, key.map(|key| [key.clone(), value.unwrap_or(key)]));
        }
        let all = side_by_side(&self.qkv, x, None, mask);
        if qkv == Modules::Fused {
            let part = |start, width| all.clone().narrow(2, start, width);
            return (part(0, q), Some([part(q, kv), part(q + kv, kv)]));
        }
        let ([batch, length, _], group) = (all.dims(), heads / kv_heads);
        let groups = all.reshape([batch * length, kv_heads, group + 2, head_dim]);
        let part = |start, count, width| {
            groups
                .clone()
                .narrow(2, start, count)
                .reshape([batch, length, width])
        };
        (
            part(0, group, q),
            Some([part(group, 1, kv), part(group + 1, 1, kv)]),
        )
    }
}

/// Latent attention, see [`LatentSpec`].
#[derive(Debug, Clone)]
pub(super) struct Latent {
    pub(super) spec: LatentSpec,
    pub(super) query: Query,
    /// The projection to the narrow row of keys and values, and to the rotated key beside it.
    pub(super) kv_a: Projection,
    pub(super) kv_norm: Norm,
    pub(super) kv_b: Projection,
    pub(super) output: Projection,
}

/// The projections of queries.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one a block")]
pub(super) enum Query {
    Straight(Projection),
    Narrow {
        a: Projection,
        norm: Norm,
        b: Projection,
    },
}

impl Latent {
    fn projections(&self) -> Vec<&Projection> {
        let Self {
            query,
            kv_a,
            kv_b,
            output,
            ..
        } = self;
        match query {
            Query::Straight(query) => vec![query, kv_a, kv_b, output],
            Query::Narrow { a, b, .. } => vec![a, b, kv_a, kv_b, output],
        }
    }

    fn projections_mut(&mut self) -> Vec<&mut Projection> {
        let Self {
            query,
            kv_a,
            kv_b,
            output,
            ..
        } = self;
        match query {
            Query::Straight(query) => vec![query, kv_a, kv_b, output],
            Query::Narrow { a, b, .. } => vec![a, b, kv_a, kv_b, output],
        }
    }

    fn mix(
        &self,
        x: Tensor<3>,
        place: BlockPlace,
        frame: &Frame,
        past: Option<&mut Past>,
    ) -> Tensor<3> {
        let [batch, length, _] = x.dims();
        let LatentSpec {
            heads,
            kv_rank,
            plain_dim,
            rope_dim,
            value_dim,
            score_scale,
            ..
        } = self.spec;
        let head_dim = self.spec.head_dim();
        let mask = |site| frame.mask(place.layer, site);
        let of_stream = mask(Site::AttentionInput);
        let query = match &self.query {
            Query::Straight(query) => query.forward(x.clone(), of_stream.as_ref()),
            Query::Narrow { a, norm, b } => {
                let narrow = norm.forward(a.forward(x.clone(), of_stream.as_ref()));
                b.forward(narrow, mask(Site::QueryRow).as_ref())
            }
        };
        let query = query.reshape([batch, length, heads, head_dim]);
        let narrow = self.kv_a.forward(x, of_stream.as_ref()); // [batch, length, kv rank + rotated]
        let shared = narrow
            .clone()
            .narrow(2, kv_rank, rope_dim)
            .reshape([batch, length, 1, rope_dim]);
        let narrow = self.kv_norm.forward(narrow.narrow(2, 0, kv_rank));
        let both = self.kv_b.forward(narrow, mask(Site::KeyValueRow).as_ref());
        let both = both.reshape([batch, length, heads, plain_dim + value_dim]);
        let rope = &frame.ropes[place.rope.expect("latent attention rotates")];
        let positions = &frame.positions;
        let rotated = rope.rotate_queries(
            query.clone().narrow(3, plain_dim, rope_dim),
            positions.clone(),
        );
        let query = Tensor::cat(vec![query.narrow(3, 0, plain_dim), rotated], 3);
        let shared = rope
            .rotate_keys(shared, positions.clone())
            .expand([batch, length, heads, rope_dim]);
        let key = Tensor::cat(vec![both.clone().narrow(3, 0, plain_dim), shared], 3);
        let value = both.narrow(3, plain_dim, value_dim);
        // Attention has one width for queries, keys and values.
        let width = head_dim.max(value_dim);
        let [query, key, value] = [query, key, value].map(|of| widened(of, width));
        let [key, value] = match past {
            Some(past) => past.extend([key, value]),
            None => [key, value],
        };
        let score = Score {
            scale: score_scale as f32,
            softcap: None,
        };
        let mixed = attention_with_sinks(query, key, value, &frame.seen[place.span], score, None);
        mixed
            .narrow(3, 0, value_dim)
            .reshape([batch, length, heads * value_dim])
    }
}

/// Pads rows with zeros.
fn widened(of: Tensor<4>, width: usize) -> Tensor<4> {
    let [batch, length, heads, own] = of.dims();
    if own == width {
        return of;
    }
    let zeros = Tensor::<4>::zeros(
        [batch, length, heads, width - own],
        (&of.device(), of.dtype()),
    );
    Tensor::cat(vec![of, zeros], 3)
}
