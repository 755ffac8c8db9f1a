//! What one block keeps for its backward, and what its forward and backward compute with, op by op, in numbers.

use super::{Load, Rows};
use crate::model::{LayerSpec, NormPlacement, QueryKeyNorm};
use crate::terms::Method;

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
    method: Method,
}

impl BlockForm {
    /// The block `index` of a run.
    pub fn new(load: &Load, index: usize, rows: Rows) -> Self {
        let (layer, below) = (&load.spec.layers[index], &load.spec.layers[..index]);
        let LayerSpec { mixer, mlp, norms, .. } = layer;
        let mut place: usize = below.iter().flat_map(LayerSpec::group_sizes).sum();
        let ranks = layer.group_sizes().map(|size| {
            let ranks = &load.trained.ranks[place..place + size];
            place += size;
            ranks.iter().sum::<usize>() as u64
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
            ranks,
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
        let before_norms = if self.qk_norm { self.tokens * (self.queries + self.keys) } else { 0 };
        let after_norms = self.post_norms * self.input();
        self.group_kept(qkv, self.width)
            + before_norms
            + after_norms
            + self.attention_kept()
            + self.group_kept(o, 0)
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
        self.tokens * (self.width + mlp.max(attention))
    }

    /// The most that backward computes with beside the tape. When the tape is whole there are the block's output, what was added to it, its
    /// gradient, and the mixture's tiles, which the allocator has not given back. The gradient of the gated unit takes the place of its
    /// result, but for what is dropped of it. When it comes to attention, the feed-forward is gone from the tape, and there are the
    /// gradients of x and of the mixture, those of queries, keys and values in tiles, and one of them as a whole.
    pub fn backward(&self) -> u64 {
        let whole = 3 * self.width + self.queries;
        let dropped = if self.drops { self.width + 2 * self.inner } else { 0 };
        let attention = self.width + 3 * self.queries + 2 * self.keys;
        (self.tokens * whole.max(dropped)).max((self.tokens * attention).saturating_sub(self.mlp_kept()))
    }
}
