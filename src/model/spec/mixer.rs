//! The spec of a layer's attention.

use super::{ConvolutionSpec, Modules, RecurrentSpec};
use crate::nn::attention::Span;
use crate::nn::rope::RopeSpec;
use crate::ops::RecurrenceForm;

/// Whether and where queries and keys are normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// No norms.
    None,
    /// Each head is normalized by itself, before the rotation.
    Heads,
    /// Each head is normalized by itself, after the rotation.
    HeadsAfterRotation,
    /// All heads are normalized together, before the rotation.
    Whole,
}

/// The gate of the result of heads, a factor σ(g).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputGate {
    /// No gate.
    None,
    /// One per feature: the projection of queries gives each head's query, and its gates behind it.
    Features,
    /// One per head, from a projection with this last name.
    Heads(&'static str),
}

/// The source of a layer's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyValues {
    /// Keys and values have a projection each.
    Projected,
    /// One projection, whose output is keys, after norm and rotation, and values.
    KeysAsValues,
    /// The keys and values of the lower layer at this index; the layer itself has queries only.
    OfLayer(usize),
}

/// The kind of attention.
#[derive(Debug, Clone, PartialEq)]
pub enum MixerSpec {
    /// Each head, or each group of heads, has keys and values of its own.
    Grouped(GroupedSpec),
    /// Keys and values of all heads come from one narrow row per token.
    Latent(LatentSpec),
    /// A state per head takes the place of keys and values.
    Recurrent(RecurrentSpec),
    /// A short convolution alone.
    Convolution(ConvolutionSpec),
}

impl From<GroupedSpec> for MixerSpec {
    fn from(spec: GroupedSpec) -> Self {
        Self::Grouped(spec)
    }
}

impl From<RecurrentSpec> for MixerSpec {
    fn from(spec: RecurrentSpec) -> Self {
        Self::Recurrent(spec)
    }
}

impl From<ConvolutionSpec> for MixerSpec {
    fn from(spec: ConvolutionSpec) -> Self {
        Self::Convolution(spec)
    }
}

impl From<LatentSpec> for MixerSpec {
    fn from(spec: LatentSpec) -> Self {
        Self::Latent(spec)
    }
}

impl MixerSpec {
    /// Returns the rotation; `None`: queries and keys have no position.
    pub fn rope(&self) -> Option<&RopeSpec> {
        match self {
            Self::Grouped(grouped) => grouped.rope.as_ref(),
            Self::Latent(latent) => Some(&latent.rope),
            Self::Recurrent(_) | Self::Convolution(_) => None,
        }
    }

    /// Returns the range of earlier tokens that a query sees; states are of all of them.
    pub fn span(&self) -> Span {
        match self {
            Self::Grouped(grouped) => grouped.span,
            Self::Latent(_) | Self::Recurrent(_) | Self::Convolution(_) => Span::Full,
        }
    }

    /// Returns the number of query heads, of heads of keys and values, and the width of each.
    pub fn heads(&self) -> [usize; 3] {
        match self {
            Self::Grouped(GroupedSpec {
                heads,
                kv_heads,
                head_dim,
                ..
            }) => [*heads, *kv_heads, *head_dim],
            Self::Latent(latent) => [latent.heads, latent.heads, latent.head_dim()],
            Self::Recurrent(RecurrentSpec { form, .. }) => {
                [form.value_heads, form.key_heads, form.value_dim]
            }
            Self::Convolution(convolution) => [1, 1, convolution.channels],
        }
    }

    /// Returns the floating-point operations of a forward and of a backward per token, projections
    /// apart, in documents of `length` tokens. Of attention half of all pairs are seen, and
    /// backward makes the scores again: five products to two.
    pub fn flops(&self, length: f64) -> [f64; 2] {
        if let Self::Recurrent(RecurrentSpec { form, .. }) = self {
            let forward = 2.0 * form.multiply_adds() as f64;
            return [forward, RecurrenceForm::BACKWARD as f64 * forward];
        }
        if let Self::Convolution(ConvolutionSpec { channels, taps, .. }) = self {
            let forward = 2.0 * (channels * taps) as f64;
            return [forward, 2.0 * forward];
        }
        let [heads, _, head_dim] = self.heads();
        let forward = 2.0 * (heads * head_dim) as f64 * length;
        [forward, 2.5 * forward]
    }

    /// Whether something is carried from token to token that cannot go back.
    pub fn carries(&self) -> bool {
        matches!(self, Self::Recurrent(_) | Self::Convolution(_))
    }

    /// Returns the name of the module of what is carried.
    pub fn carrying_module(&self) -> Option<&'static str> {
        match self {
            Self::Recurrent(recurrent) => Some(recurrent.module),
            Self::Convolution(convolution) => Some(convolution.module),
            Self::Grouped(_) | Self::Latent(_) => None,
        }
    }

    /// Returns the spec of states.
    pub fn recurrent(&self) -> Option<&RecurrentSpec> {
        if let Self::Recurrent(recurrent) = self {
            Some(recurrent)
        } else {
            None
        }
    }

    /// Returns the index of the lower layer whose keys and values the layer uses; `None` where it
    /// has its own.
    pub fn source(&self) -> Option<usize> {
        match self.grouped()?.key_values {
            KeyValues::OfLayer(index) => Some(index),
            KeyValues::Projected | KeyValues::KeysAsValues => None,
        }
    }

    /// Returns the spec of grouped attention.
    pub fn grouped(&self) -> Option<&GroupedSpec> {
        if let Self::Grouped(grouped) = self {
            Some(grouped)
        } else {
            None
        }
    }

    /// Returns the spec of grouped attention, to be changed.
    pub fn grouped_mut(&mut self) -> Option<&mut GroupedSpec> {
        if let Self::Grouped(grouped) = self {
            Some(grouped)
        } else {
            None
        }
    }
}

/// Multi-head, grouped-query or multi-query attention.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a feature of its own"
)]
pub struct GroupedSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Modules of q, k and v.
    pub qkv: Modules,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Norms of query and key heads.
    pub qk_norm: QueryKeyNorm,
    /// The source of keys and values.
    pub key_values: KeyValues,
    /// Whether value heads are normalized, by a norm without a weight.
    pub value_norm: bool,
    /// The rotation; `None`: queries and keys have no position.
    pub rope: Option<RopeSpec>,
    /// The range of earlier tokens that a query sees.
    pub span: Span,
    /// The factor of the product of a query and a key.
    pub score_scale: f64,
    /// The cap c: a scaled score s becomes c tanh(s / c).
    pub softcap: Option<f64>,
    /// Whether each head has a sink: a score that takes its share of the softmax and has no value.
    pub sinks: bool,
    /// The gate of the result.
    pub gate: OutputGate,
}

impl GroupedSpec {
    /// Makes attention without biases, norms, window, cap or sinks. Scores are divided by the root
    /// of a head's width.
    pub fn new([heads, kv_heads, head_dim]: [usize; 3], rope: impl Into<Option<RopeSpec>>) -> Self {
        let (rope, score_scale) = (rope.into(), 1.0 / (head_dim as f64).sqrt());
        let (qkv, qk_norm, span) = (Modules::Separate, QueryKeyNorm::None, Span::Full);
        let (qkv_bias, output_bias, softcap, sinks) = (false, false, None, false);
        let (key_values, value_norm) = (KeyValues::Projected, false);
        Self {
            heads,
            kv_heads,
            head_dim,
            qkv,
            qkv_bias,
            output_bias,
            qk_norm,
            key_values,
            value_norm,
            rope,
            span,
            score_scale,
            softcap,
            sinks,
            gate: OutputGate::None,
        }
    }

    /// Returns the number of outputs of the projections of queries, keys and values.
    pub fn qkv_widths(&self) -> [usize; 3] {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match self.gate {
            OutputGate::None | OutputGate::Heads(_) => [queries, keys, keys],
            OutputGate::Features => [2 * queries, keys, keys],
        }
    }

    /// Returns the widths of the norms of queries and of keys; a layer that has no keys of its own
    /// has no norm of them.
    pub fn norm_widths(&self) -> [Option<usize>; 2] {
        let [query, key] = match self.qk_norm {
            QueryKeyNorm::None => return [None; 2],
            QueryKeyNorm::Heads | QueryKeyNorm::HeadsAfterRotation => [self.head_dim; 2],
            QueryKeyNorm::Whole => [self.heads, self.kv_heads].map(|heads| heads * self.head_dim),
        };
        let has_keys = !matches!(self.key_values, KeyValues::OfLayer(_));
        [Some(query), has_keys.then_some(key)]
    }

    /// Returns the number of linear maps from the stream.
    pub fn input_maps(&self) -> usize {
        match (self.qkv, self.key_values) {
            (Modules::Separate, KeyValues::Projected) => 3,
            (Modules::Separate, KeyValues::KeysAsValues) => 2,
            _ => 1,
        }
    }
}

/// Multi-head latent attention, arXiv:2405.04434: keys and values of all heads are projected from
/// one normalized row of `kv_rank` numbers per token; beside it stands a rotated key that all heads
/// share.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentSpec {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Width of the normalized row that queries are projected from; `None`: from the stream.
    pub query_rank: Option<usize>,
    /// Width of the row that keys and values are projected from.
    pub kv_rank: usize,
    /// Features of a query or key head that are not rotated.
    pub plain_dim: usize,
    /// Features of a query or key head that are rotated.
    pub rope_dim: usize,
    /// Features of a value head.
    pub value_dim: usize,
    /// Whether the projections onto the narrow rows and the output have a bias.
    pub bias: bool,
    /// The rotation.
    pub rope: RopeSpec,
    /// The factor of the product of a query and a key.
    pub score_scale: f64,
    /// ε of the norms of the narrow rows.
    pub norm_epsilon: f64,
}

impl LatentSpec {
    /// Returns the width of a query or key head.
    pub fn head_dim(&self) -> usize {
        self.plain_dim + self.rope_dim
    }
}
