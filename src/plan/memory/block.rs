//! What one block keeps for its backward, and what its forward and backward compute with, op by op, in numbers.

use super::{F32, Load, Rows};
use crate::model::{LayerSpec, NormPlacement, QueryKeyNorm};
use crate::terms::{AdapterVector, Method};

/// One block at one batch. Sizes are in numbers; `T` is tokens of the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockForm {
    /// T.
    tokens: u64,
    /// Width of the residual stream.
    width: u64,
    /// Width of all query heads, and of all key heads.
    queries: u64,
    keys: u64,
    /// Width between gate and down.
    inner: u64,
    /// T · heads.
    head_rows: u64,
    qk_norm: bool,
    /// Norms of what attention and feed-forward add.
    post_norms: u64,
    /// Whether adapters drop features of their input.
    drops: bool,
    /// Sums of the ranks of q, k and v; of o; of gate and up; of down: projections that share an input.
    ranks: [u64; 4],
    /// Outputs of the same groups where they are scaled by magnitudes, which keeps them, and how many numbers one of f32 takes.
    scaled: [u64; 4],
    wide: u64,
    method: Method,
}

impl BlockForm {
    /// The block `index` of a run.
    pub fn new(load: &Load, index: usize, rows: Rows) -> Self {
        let (layer, below) = (&load.spec.layers[index], &load.spec.layers[..index]);
        let LayerSpec { mixer, mlp, norms, .. } = layer;
        let mut place: usize = below.iter().flat_map(LayerSpec::group_sizes).sum();
        let groups = layer.group_sizes().map(|size| {
            let group = place..place + size;
            place = group.end;
            let of = |numbers: &[usize]| numbers[group.clone()].iter().sum::<usize>() as u64;
            let ranks = of(&load.trained.ranks);
            let is_scaled = ranks > 0 && load.trained.vector == Some(AdapterVector::Magnitude);
            (ranks, if is_scaled { of(&load.trained.outputs) } else { 0 })
        });
        let (heads, tokens) = (mixer.heads as u64, rows.tokens as u64);
        Self {
            tokens,
            width: load.spec.width as u64,
            queries: heads * mixer.head_dim as u64,
            keys: (mixer.kv_heads * mixer.head_dim) as u64,
            inner: mlp.inner as u64,
            head_rows: tokens * heads,
            qk_norm: mixer.qk_norm != QueryKeyNorm::None,
            post_norms: if *norms == NormPlacement::Pre { 0 } else { 2 },
            drops: load.dropout > 0.0,
            ranks: groups.map(|(ranks, _)| ranks),
            scaled: groups.map(|(_, outputs)| outputs),
            wide: F32 / load.computed_bytes(),
            method: load.trained.method,
        }
    }

    /// Its input and output, [T, width].
    pub fn input(&self) -> u64 {
        self.tokens * self.width
    }

    /// Gate and up, the widest of its tensors.
    pub fn gate_up(&self) -> u64 {
        2 * self.tokens * self.inner
    }

    /// What its tape holds beside the input, which the first norm keeps. The rotation and the residual sums keep nothing.
    pub fn kept(&self) -> u64 {
        let [qkv, o, ..] = self.ranks;
        // Scaled, o is given what dropout leaves, and keeps that.
        let dropped = if self.drops && self.scaled[1] > 0 { self.queries } else { 0 };
        let before_norms = if self.qk_norm { self.tokens * (self.queries + self.keys) } else { 0 };
        let after_norms = self.post_norms * self.input();
        self.group_kept(qkv, self.width)
            + before_norms
            + after_norms
            + self.attention_kept()
            + self.group_kept(o, dropped)
            + self.scaled_kept()
            + self.mlp_kept()
    }

    /// Queries, keys and values after the rotation, the result, and the logarithm of each query's sum. The result is what o is given, so o
    /// keeps nothing of its own but x A.
    fn attention_kept(&self) -> u64 {
        self.tokens * (2 * self.queries + 2 * self.keys) + self.head_rows
    }

    /// x after attention, which the second norm keeps; the feed-forward's input; gate and up, which the gated unit keeps; its result.
    fn mlp_kept(&self) -> u64 {
        let [.., gate_up, down] = self.ranks;
        self.input() + self.group_kept(gate_up, self.width) + 2 * self.tokens * self.inner + self.group_kept(down, self.inner)
    }

    /// What magnitudes scale, in f32.
    fn scaled_kept(&self) -> u64 {
        self.tokens * self.wide * self.scaled.iter().sum::<u64>()
    }

    /// The input of projections that share one, where a gradient of their weights is wanted, and x A of each adapter.
    fn group_kept(&self, ranks: u64, width: u64) -> u64 {
        let is_wanted = self.method == Method::Full || ranks > 0;
        self.tokens * (ranks + if is_wanted { width } else { 0 })
    }

    /// The most that a forward without a tape computes with beside the input: x after attention and its norm with gate and up, or with
    /// gate, up and the gated unit; or a norm with queries, keys, values, and their mixture in tiles and as a whole.
    pub fn forward(&self) -> u64 {
        let mlp = (self.width + 2 * self.inner).max(3 * self.inner);
        let attention = 3 * self.queries + 2 * self.keys;
        // What is scaled is there twice.
        let scaled = self.wide * self.scaled.iter().max().copied().unwrap_or(0);
        self.tokens * (self.width + mlp.max(attention) + scaled)
    }

    /// The most that backward computes with beside the tape. When the tape is whole there are the block's output, what was added to it, its
    /// gradient, and the mixture's tiles, which the allocator has not given back. The gradient of the gated unit takes the place of its
    /// result, but for what is dropped of it. When it comes to attention, the feed-forward is gone from the tape, and there are the
    /// gradients of x and of the mixture, those of queries, keys and values in tiles, and one of them as a whole.
    pub fn backward(&self) -> u64 {
        let whole = 3 * self.width + self.queries;
        let dropped = if self.drops { self.width + 2 * self.inner } else { 0 };
        let attention = self.width + 3 * self.queries + 2 * self.keys;
        // Of what is scaled: its gradient, that of what it was before, and both sides' product, which becomes that of the magnitudes.
        let scaled = 3 * self.wide * self.scaled.iter().max().copied().unwrap_or(0);
        (self.tokens * whole.max(dropped + scaled)).max((self.tokens * attention).saturating_sub(self.mlp_kept()))
    }
}
