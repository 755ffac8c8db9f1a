//! One decoder block, and what all blocks of a batch share.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};

use super::cache::Past;
use super::spec::{GroupedSpec, LAYER_NORMS, QUERY_KEY_NORMS, norm_name};
use crate::nn::norm::RmsNorm;
use crate::nn::projection::{Projection, side_by_side};
use crate::nn::rope::RopeTables;
use crate::nn::weight::Weight;
use crate::ops::{Activation, Mask, Score, attention, gated};
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

    fn wanted_of(&self, layer: usize) -> Option<&Rows> {
        self.wanted.as_ref().filter(|rows| rows.block == layer)
    }
}

/// x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug, Clone)]
pub struct Block {
    pub(super) index: usize,
    pub(super) spec: GroupedSpec,
    /// Index into the frame's rotations and spans.
    pub(super) rope: usize,
    pub(super) span: usize,
    pub(super) attention_norm: RmsNorm,
    pub(super) query_key_norm: Option<[RmsNorm; 2]>,
    /// q, k, v, o.
    pub(super) attention: [Projection; 4],
    pub(super) mlp_norm: RmsNorm,
    /// gate, up, down.
    pub(super) mlp: [Projection; 3],
}

impl Block {
    /// # Shapes
    /// `x` [1, tokens, width], result the same; of the last block with the rows that the frame wants of it.
    pub fn forward(&self, x: Tensor<3>, frame: &Frame) -> Tensor<3> {
        self.advance(x, frame, None)
    }

    /// The same where the tokens of `x` follow on those in `past`, which takes them in.
    pub(super) fn advance(&self, x: Tensor<3>, frame: &Frame, past: Option<&mut Past>) -> Tensor<3> {
        let (mut x, mut mixed) = (x.clone(), self.mix(self.attention_norm.forward(x), frame, past));
        if let Some(rows) = frame.wanted_of(self.index) {
            [x, mixed] = [x, mixed].map(|of| of.select(1, rows.places.clone()));
        }
        let x = self.attention[3].forward_onto(x, mixed, frame.mask(self.index, Group::AttentionOutput).as_ref());
        self.feed_forward(x.clone(), self.mlp_norm.forward(x), frame)
    }

    /// What the heads see, before it is projected.
    fn mix(&self, x: Tensor<3>, frame: &Frame, past: Option<&mut Past>) -> Tensor<3> {
        let [batch, length, _] = x.dims();
        let GroupedSpec { heads, kv_heads, head_dim, .. } = self.spec;
        let mask = frame.mask(self.index, Group::AttentionInput);
        let [q, k, v, _] = &self.attention;
        let split = |projection: &Projection, heads| {
            projection.forward(x.clone(), mask.as_ref()).reshape([batch, length, heads, head_dim])
        };
        let (mut query, mut key, value) = (split(q, heads), split(k, kv_heads), split(v, kv_heads)); // [batch, length, heads, d]
        if let Some([query_norm, key_norm]) = &self.query_key_norm {
            (query, key) = (query_norm.forward(query), key_norm.forward(key));
        }
        let rope = &frame.ropes[self.rope];
        let (query, key) = (rope.rotate(query, frame.positions.clone()), rope.rotate(key, frame.positions.clone()));
        let [key, value] = match past {
            Some(past) => past.extend([key, value]),
            None => [key, value],
        };
        let score = Score { scale: 1.0 / (head_dim as f32).sqrt(), softcap: None };
        attention(query, key, value, &frame.first[self.span], score).reshape([batch, length, heads * head_dim])
    }

    /// The feed-forward of x, added to the residual stream.
    fn feed_forward(&self, onto: Tensor<3>, x: Tensor<3>, frame: &Frame) -> Tensor<3> {
        let [gate, up, down] = &self.mlp;
        let mask = frame.mask(self.index, Group::MlpInput);
        let gate_up = side_by_side([gate, up], x, None, mask.as_ref());
        let [batch, length, width] = gate_up.dims();
        let inner = gated(gate_up.reshape([batch * length, width]), Activation::Silu).reshape([batch, length, width / 2]);
        down.forward_onto(onto, inner, frame.mask(self.index, Group::MlpOutput).as_ref())
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
        let [query, key] = self.query_key_norm.as_mut().map_or([None, None], |norms| norms.each_mut().map(Some));
        let norms = [Some(&mut self.attention_norm), Some(&mut self.mlp_norm), query, key];
        let names = LAYER_NORMS.into_iter().chain(QUERY_KEY_NORMS).map(|name| norm_name(self.index, name));
        names.zip(norms).filter_map(|(name, norm)| Some((name, norm?)))
    }

    /// Its projections in checkpoint order.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.attention.iter().chain(&self.mlp)
    }

    /// Its projections in checkpoint order.
    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        self.attention.iter_mut().chain(&mut self.mlp)
    }
}
