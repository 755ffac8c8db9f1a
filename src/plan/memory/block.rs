//! What one block keeps for its backward, and what its forward and backward compute with, op by op, in numbers.

use std::ops::Range;

use super::{F32, Load, Rows};
use crate::model::{GroupedSpec, LatentSpec, LayerSpec, MixerSpec, MlpSpec, Modules, NormPlacement, QueryKeyNorm};
use crate::terms::{AdapterVector, Method};

/// One block at one batch. Sizes are in numbers; `T` is tokens of the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockForm {
    /// T.
    tokens: u64,
    /// Width of the residual stream.
    width: u64,
    /// Width of all query heads, of all key heads, and of all value heads, as attention has them.
    queries: u64,
    keys: u64,
    /// What attention keeps of its way to queries, keys and values, a token.
    way: u64,
    /// Rows that the feed-forward computes, and what is between its maps of each: one a token, or one a chosen expert.
    inner_rows: u64,
    inner: u64,
    /// Gate and up, or one.
    inner_maps: u64,
    /// What the feed-forward keeps beside, a token: gathered rows, what experts give, and the shared feed-forward.
    beside: u64,
    /// T · heads.
    head_rows: u64,
    /// Norms of what attention and feed-forward add.
    post_norms: u64,
    /// Whether adapters drop features of their input.
    drops: bool,
    /// Sums of the ranks of what projects the input of attention; of its output; of the feed-forward's input; of its output: projections
    /// that share an input.
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
        let place: usize = below.iter().map(|layer| layer.mixer_maps() + layer.mlp_maps()).sum();
        let (of_mixer, of_mlp) =
            load.trained.ranks[place..][..layer.mixer_maps() + layer.mlp_maps()].split_at(layer.mixer_maps());
        let scaled = scaled(load, layer, place);
        let ([heads, kv_heads, head_dim], tokens) = (mixer.heads(), rows.tokens as u64);
        let head_dim = match mixer {
            MixerSpec::Grouped(_) => head_dim,
            MixerSpec::Latent(latent) => head_dim.max(latent.value_dim),
        };
        let (width, sum) = (load.spec.width as u64, |ranks: &[usize]| ranks.iter().sum::<usize>() as u64);
        let (output, inputs) = of_mixer.split_last().expect("attention has an output");
        let (inner_rows, inner_maps, beside, [gate_up, down]) = match mlp {
            MlpSpec::Gated(_) => {
                let (down, gate_up) = of_mlp.split_last().expect("a feed-forward has an output");
                (tokens, 2, 0, [sum(gate_up), *down as u64])
            }
            // What the error function is given, and what it makes of it.
            MlpSpec::Plain(_) => (tokens, 1, 2 * mlp.inner() as u64, [of_mlp[0] as u64, of_mlp[1] as u64]),
            MlpSpec::Experts(experts) => {
                let chosen = experts.router.chosen as u64;
                let shared = experts.shared.unwrap_or(0) as u64;
                // Adapters of experts are of the rows that are sent to them; of them all are alike.
                let of_expert = &of_mlp[..experts.maps()];
                let (down, gate_up) = of_expert.split_last().expect("an expert has an output");
                // Rows by expert, what experts give by expert and by token, and what the router computes, in f32.
                let routed = 4 * experts.router.experts as u64 * F32 / load.computed_bytes();
                let rows = chosen * 3 * width + routed;
                (tokens * chosen, 2, rows + 3 * shared, [sum(gate_up) * chosen, *down as u64 * chosen])
            }
        };
        Self {
            tokens,
            width,
            queries: (heads * head_dim) as u64,
            keys: (kv_heads * head_dim) as u64,
            way: way(mixer),
            inner_rows,
            inner: mlp.inner() as u64,
            inner_maps,
            beside,
            head_rows: tokens * heads as u64,
            post_norms: if matches!(norms, NormPlacement::PreAndPost | NormPlacement::Post) { 2 } else { 0 },
            drops: load.dropout > 0.0,
            ranks: [sum(inputs), *output as u64, gate_up, down],
            scaled,
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
        self.inner_maps * self.inner_rows * self.inner
    }

    /// What its tape holds beside the input, which the first norm keeps. The rotation and the residual sums keep nothing.
    pub fn kept(&self) -> u64 {
        let [qkv, o, ..] = self.ranks;
        // Scaled, o is given what dropout leaves, and keeps that.
        let dropped = if self.drops && self.scaled[1] > 0 { self.queries } else { 0 };
        let after_norms = self.post_norms * self.input();
        self.group_kept(qkv, self.width)
            + self.tokens * self.way
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
        let of_down = if self.is_wanted(down) { self.inner_rows * self.inner } else { 0 };
        let between = self.tokens * down + of_down;
        self.input() + self.group_kept(gate_up, self.width) + self.gate_up() + between + self.tokens * self.beside
    }

    /// What magnitudes scale, in f32.
    fn scaled_kept(&self) -> u64 {
        self.tokens * self.wide * self.scaled.iter().sum::<u64>()
    }

    /// The most that is scaled at once.
    fn scaled_most(&self) -> u64 {
        self.tokens * self.wide * self.scaled.iter().max().copied().unwrap_or(0)
    }

    /// The input of projections that share one, where a gradient of their weights is wanted, and x A of each adapter.
    fn group_kept(&self, ranks: u64, width: u64) -> u64 {
        self.tokens * (ranks + if self.is_wanted(ranks) { width } else { 0 })
    }

    fn is_wanted(&self, ranks: u64) -> bool {
        self.method == Method::Full || ranks > 0
    }

    /// The most that a forward without a tape computes with beside the input: x after attention and its norm with gate and up, or with
    /// gate, up and the gated unit; or a norm with queries, keys, values, and their mixture in tiles and as a whole.
    pub fn forward(&self) -> u64 {
        let gate_up = self.gate_up();
        let mlp = (self.tokens * self.width + gate_up).max(gate_up + self.inner_rows * self.inner) + self.tokens * self.beside;
        let attention = self.tokens * (3 * self.queries + 2 * self.keys + self.way);
        // What is scaled is there twice.
        self.tokens * self.width + mlp.max(attention) + self.scaled_most()
    }

    /// The most that backward computes with beside the tape. When the tape is whole there are the block's output, what was added to it, its
    /// gradient, and the mixture's tiles, which the allocator has not given back. The gradient of the gated unit takes the place of its
    /// result, but for what is dropped of it. When it comes to attention, the feed-forward is gone from the tape, and there are the
    /// gradients of x and of the mixture, those of queries, keys and values in tiles, and one of them as a whole.
    pub fn backward(&self) -> u64 {
        let whole = self.tokens * (3 * self.width + self.queries + self.beside);
        let dropped = if self.drops { self.tokens * self.width + self.gate_up() } else { 0 };
        let attention = self.tokens * (self.width + 3 * self.queries + 2 * self.keys + self.way);
        // Of what is scaled: its gradient, that of what it was before, and both sides' product, which becomes that of the magnitudes.
        whole.max(dropped + 3 * self.scaled_most()).max(attention.saturating_sub(self.mlp_kept()))
    }
}

/// Outputs of the groups of a layer that are scaled, whose first projection is at `place`; routed experts have no magnitudes.
fn scaled(load: &Load, layer: &LayerSpec, place: usize) -> [u64; 4] {
    if load.trained.vector != Some(AdapterVector::Magnitude) {
        return [0; 4];
    }
    let (of_mixer, all) = (layer.mixer_maps(), layer.mixer_maps() + layer.mlp_maps());
    let of = |group: Range<usize>| {
        let group = place + group.start..place + group.end;
        let has_one = load.trained.ranks[group.clone()].iter().any(|rank| *rank > 0);
        if has_one { load.trained.outputs[group].iter().sum::<usize>() as u64 } else { 0 }
    };
    let first = if matches!(layer.mlp, MlpSpec::Experts(_)) { all.saturating_sub(3).max(of_mixer) } else { of_mixer };
    [of(0..of_mixer - 1), of(of_mixer - 1..of_mixer), of(first..all - 1), of(all - 1..all)]
}

/// What a token keeps on its way to queries, keys and values: before norms of heads; or narrow rows before and behind their norms, and what
/// is put together of pieces.
fn way(mixer: &MixerSpec) -> u64 {
    let numbers = match mixer {
        MixerSpec::Grouped(GroupedSpec { heads, kv_heads, head_dim, qk_norm, qkv, .. }) => {
            let before_norms = if *qk_norm == QueryKeyNorm::None { 0 } else { (heads + kv_heads) * head_dim };
            // Groups are put in order.
            before_norms + if *qkv == Modules::FusedByGroup { (heads + 2 * kv_heads) * head_dim } else { 0 }
        }
        MixerSpec::Latent(LatentSpec { query_rank, kv_rank, rope_dim, .. }) => {
            2 * query_rank.unwrap_or(0) + 2 * (kv_rank + rope_dim)
        }
    };
    numbers as u64
}
