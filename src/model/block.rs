//! One decoder block, and what all blocks of a batch share.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};

use super::cache::Past;
use super::spec::{GroupedSpec, LayerSpec, QUERY_KEY_NORMS, QueryKeyNorm, norm_name};
use crate::nn::norm::RmsNorm;
use crate::nn::projection::{Projection, side_by_side};
use crate::nn::rope::RopeTables;
use crate::nn::weight::Weight;
use crate::ops::{Mask, Score, attention, gated};
use crate::terms::Method;

/// What depends on the batch's documents, not on the block: made once a batch, used by forward and by every recomputation.
#[derive(Debug)]
pub struct Frame {
    /// One for each distinct rotation of the model.
    pub(super) ropes: Vec<RopeTables>,
    /// One for each distinct span of the model: for every query the index of the first key that it sees; it sees all keys from there to
    /// itself.
    pub(super) first: Vec<Arc<[u32]>>,
    /// The tables' row for each token of a row, [sequence].
    pub(super) positions: Arc<[u32]>,
    /// Share of features dropped and one key a token; `None` outside training.
    pub(super) dropout: Option<(f64, Arc<[u64]>)>,
    /// What is wanted of the last block; `None`: every token.
    pub(super) wanted: Option<Rows>,
}

/// Tokens of a batch whose hidden rows are wanted of a block. Its keys and values are of every token, the rest of it is of these.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) block: usize,
    /// Places in the row, ascending.
    pub(super) places: Tensor<1, Int>,
    /// Their dropout keys; none outside training.
    pub(super) keys: Arc<[u64]>,
}

/// Projections that share an input share a dropout mask.
#[derive(Clone, Copy)]
enum Group {
    AttentionInput,
    AttentionOutput,
    MlpInput,
    MlpOutput,
}

impl Frame {
    fn mask(&self, layer: usize, group: Group) -> Option<Mask> {
        let (probability, tokens) = self.dropout.as_ref()?;
        let tokens = match (group, self.wanted_of(layer)) {
            (Group::AttentionInput, _) | (_, None) => tokens,
            (_, Some(rows)) => &rows.keys,
        };
        Some(Mask { tokens: tokens.clone(), site: layer as u64 * 4 + group as u64, probability: *probability })
    }

    /// The mask of what an adapter of the head is given, behind so many blocks: of the rows that are wanted of the last.
    pub fn head_mask(&self, blocks: usize) -> Option<Mask> {
        let (probability, tokens) = self.dropout.as_ref()?;
        let tokens = self.wanted.as_ref().map_or(tokens, |rows| &rows.keys);
        Some(Mask { tokens: tokens.clone(), site: blocks as u64 * 4, probability: *probability })
    }

    fn wanted_of(&self, layer: usize) -> Option<&Rows> {
        self.wanted.as_ref().filter(|rows| rows.block == layer)
    }
}

/// x + s norm(attention(norm(x))), then x + s norm(mlp(norm(x))); a family has some of the norms, and most an s of 1.
#[derive(Debug, Clone)]
pub struct Block {
    pub(super) index: usize,
    pub(super) spec: LayerSpec,
    /// Index into the frame's rotations and spans.
    pub(super) rope: Option<usize>,
    pub(super) span: usize,
    /// Before attention, after it, before the feed-forward, after it.
    pub(super) norms: [Option<RmsNorm>; 4],
    pub(super) query_key_norms: Option<[RmsNorm; 2]>,
    /// q, k and v, or one module of all.
    pub(super) qkv: Vec<Projection>,
    pub(super) attention_output: Projection,
    /// gate and up, or one module of both.
    pub(super) gate_up: Vec<Projection>,
    pub(super) mlp_output: Projection,
}

impl Block {
    /// # Shapes
    /// `x` [1, tokens, width], result the same; of the last block with the rows that the frame wants of it.
    pub fn forward(&self, x: Tensor<3>, frame: &Frame) -> Tensor<3> {
        self.advance(x, frame, None)
    }

    /// The same where the tokens of `x` follow on those in `past`, which takes them in.
    pub(super) fn advance(&self, x: Tensor<3>, frame: &Frame, past: Option<&mut Past>) -> Tensor<3> {
        let [before_attention, after_attention, before_mlp, after_mlp] = self.norms.each_ref().map(Option::as_ref);
        let (mut x, mut mixed) = (x.clone(), self.mix(normed(before_attention, x), frame, past));
        if let Some(rows) = frame.wanted_of(self.index) {
            [x, mixed] = [x, mixed].map(|of| of.select(1, rows.places.clone()));
        }
        let mask = frame.mask(self.index, Group::AttentionOutput);
        let x = self.add(x, (&self.attention_output, after_attention), mixed, mask.as_ref());
        let inner = self.inner(normed(before_mlp, x.clone()), frame);
        self.add(x, (&self.mlp_output, after_mlp), inner, frame.mask(self.index, Group::MlpOutput).as_ref())
    }

    /// What a projection gives, normalised and scaled where the family does so, onto the residual stream.
    fn add(
        &self,
        onto: Tensor<3>,
        (projection, norm): (&Projection, Option<&RmsNorm>),
        x: Tensor<3>,
        mask: Option<&Mask>,
    ) -> Tensor<3> {
        let scale = self.spec.residual_scale;
        let is_plain = scale.to_bits() == 1_f64.to_bits();
        if norm.is_none() && is_plain {
            return projection.forward_onto(onto, x, mask);
        }
        let y = normed(norm, projection.forward(x, mask));
        onto + if is_plain { y } else { y.mul_scalar(scale) }
    }

    /// What the heads see, before it is projected.
    fn mix(&self, x: Tensor<3>, frame: &Frame, past: Option<&mut Past>) -> Tensor<3> {
        let [batch, length, _] = x.dims();
        let GroupedSpec { heads, kv_heads, head_dim, qk_norm, score_scale, softcap, .. } = self.spec.mixer;
        let mask = frame.mask(self.index, Group::AttentionInput);
        let [mut query, mut key, value] = self.project(x, mask.as_ref());
        let norms = |of: QueryKeyNorm| self.query_key_norms.as_ref().filter(|_| qk_norm == of);
        if let Some([of_query, of_key]) = norms(QueryKeyNorm::Whole) {
            (query, key) = (of_query.forward(query), of_key.forward(key));
        }
        let split = |of: Tensor<3>, heads| of.reshape([batch, length, heads, head_dim]);
        let (mut query, mut key, value) = (split(query, heads), split(key, kv_heads), split(value, kv_heads)); // [batch, length, heads, d]
        if let Some([of_query, of_key]) = norms(QueryKeyNorm::Heads) {
            (query, key) = (of_query.forward(query), of_key.forward(key));
        }
        if let Some(rope) = self.rope.map(|rope| &frame.ropes[rope]) {
            (query, key) = (rope.rotate(query, frame.positions.clone()), rope.rotate(key, frame.positions.clone()));
        }
        let [key, value] = match past {
            Some(past) => past.extend([key, value]),
            None => [key, value],
        };
        let score = Score { scale: score_scale as f32, softcap: softcap.map(|cap| cap as f32) };
        attention(query, key, value, &frame.first[self.span], score).reshape([batch, length, heads * head_dim])
    }

    /// Queries, keys and values, [batch, sequence, heads · d] each.
    fn project(&self, x: Tensor<3>, mask: Option<&Mask>) -> [Tensor<3>; 3] {
        let GroupedSpec { heads, kv_heads, head_dim, .. } = self.spec.mixer;
        match &self.qkv[..] {
            [q, k, v] => [q, k, v].map(|projection| projection.forward(x.clone(), mask)),
            fused => {
                let (all, q, kv) = (side_by_side(fused, x, None, mask), heads * head_dim, kv_heads * head_dim);
                [(0, q), (q, kv), (q + kv, kv)].map(|(start, width)| all.clone().narrow(2, start, width))
            }
        }
    }

    /// What the feed-forward makes of x, before it is projected back.
    fn inner(&self, x: Tensor<3>, frame: &Frame) -> Tensor<3> {
        let mask = frame.mask(self.index, Group::MlpInput);
        let gate_up = side_by_side(&self.gate_up, x, None, mask.as_ref());
        let [batch, length, width] = gate_up.dims();
        gated(gate_up.reshape([batch * length, width]), self.spec.mlp.activation).reshape([batch, length, width / 2])
    }

    /// The same block with every weight that trains as a leaf of a new tape; frozen weights stay constants.
    #[must_use]
    pub fn tracked(&self, trained: Method) -> Self {
        let mut block = self.clone();
        block.visit(trained, &mut |_, weight| weight.track());
        block
    }

    /// Visits the weights that train, with their names.
    pub fn visit(&mut self, trained: Method, visit: &mut dyn FnMut(&str, Weight)) {
        self.projections_mut().for_each(|projection| projection.visit(trained, visit));
        if trained == Method::Full {
            for (name, norm) in self.norms_mut() {
                visit(&name, Weight::Vector(&mut norm.weight));
            }
        }
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = (String, &mut RmsNorm)> {
        let [query, key] = self.query_key_norms.as_mut().map_or([None, None], |norms| norms.each_mut().map(Some));
        let of_stream = self.spec.norms.names().into_iter().zip(self.norms.iter_mut().map(Option::as_mut));
        let of_heads = QUERY_KEY_NORMS.map(Some).into_iter().zip([query, key]);
        of_stream.chain(of_heads).filter_map(|(name, norm)| Some((norm_name(self.index, name?), norm?)))
    }

    /// Its projections in checkpoint order.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.qkv.iter().chain([&self.attention_output]).chain(&self.gate_up).chain([&self.mlp_output])
    }

    /// Its projections in checkpoint order.
    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let outputs = (&mut self.attention_output, &mut self.mlp_output);
        self.qkv.iter_mut().chain([outputs.0]).chain(&mut self.gate_up).chain([outputs.1])
    }
}

fn normed(norm: Option<&RmsNorm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
