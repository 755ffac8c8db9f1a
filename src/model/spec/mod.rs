//! What a decoder is, as data. A family's file makes it; nothing else knows the family.

mod mixer;
mod mlp;

pub use mixer::{GroupedSpec, LatentSpec, MixerSpec, QueryKeyNorm};
pub use mlp::{ExpertForm, ExpertsSpec, GatedSpec, MlpSpec, PlainSpec};

use super::layout::Names;
use crate::nn::attention::Span;
use crate::nn::experts::RouterSpec;

/// A causal decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Tokens in the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Bottom first.
    pub layers: Vec<LayerSpec>,
    /// What the checkpoint calls its modules.
    pub names: Names,
    /// What every norm of the stream is.
    pub norm: NormKind,
    /// ε of every norm.
    pub norm_epsilon: f64,
    /// What is added to the weight of every norm.
    pub norm_offset: f64,
    /// What rows of the embedding are multiplied by.
    pub embed_scale: f64,
    /// What logits are multiplied by.
    pub logit_scale: f64,
    /// c, where a logit z becomes c tanh(z / c) after that.
    pub final_softcap: Option<f64>,
    /// What the load-balancing loss of routed experts counts in training where the recipe does not
    /// say.
    pub router_aux_loss_coef: f64,
    /// Tokens that the model was made for.
    pub context: usize,
    /// The token whose looked up rows give adapters of the embedding no gradient: `padding_idx` of
    /// torch, <https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html>.
    pub padding: Option<u32>,
}

/// What a norm does before it scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Divides by the root of the mean square, Zhang and Sennrich 2019, arXiv:1910.07467.
    RootMeanSquare,
    /// Takes the mean away first, and adds a bias at the end: Ba et al. 2016, arXiv:1607.06450.
    Layer,
}

/// One block: attention and a feed-forward, what each gives added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// The attention.
    pub mixer: MixerSpec,
    /// The feed-forward.
    pub mlp: MlpSpec,
    /// Where the stream and what is added to it are normalized.
    pub norms: NormPlacement,
    /// What is added to the stream is multiplied by this.
    pub residual_scale: f64,
}

/// Whether projections of one input are modules of their own, or one whose rows lie one below the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modules {
    /// Each its own.
    Separate,
    /// One for all: all of the first, all of the second, all of the third.
    Fused,
    /// One for all: of each key head its queries, its key and its value.
    FusedByGroup,
}

impl LayerSpec {
    /// Linear maps of attention.
    pub fn mixer_maps(&self) -> usize {
        match &self.mixer {
            MixerSpec::Grouped(grouped) if grouped.qkv == Modules::Separate => 4,
            MixerSpec::Grouped(_) => 2,
            MixerSpec::Latent(latent) => 4 + usize::from(latent.query_rank.is_some()),
        }
    }

    /// Linear maps of the feed-forward, all experts included.
    pub fn mlp_maps(&self) -> usize {
        match &self.mlp {
            MlpSpec::Gated(gated) if gated.gate_up == Modules::Separate => 3,
            MlpSpec::Gated(_) | MlpSpec::Plain(_) => 2,
            MlpSpec::Experts(experts) => {
                experts.maps() * experts.router.experts + experts.shared_maps()
            }
        }
    }

    /// Norms before attention and feed-forward, and nothing else.
    pub fn new(mixer: impl Into<MixerSpec>, mlp: impl Into<MlpSpec>) -> Self {
        Self {
            mixer: mixer.into(),
            mlp: mlp.into(),
            norms: NormPlacement::Pre,
            residual_scale: 1.0,
        }
    }
}

/// Which of a layer's norms there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Of the input of attention and of that of the feed-forward.
    Pre,
    /// Of their outputs too.
    PreAndPost,
    /// Of their outputs only.
    Post,
    /// One of the stream, for attention and feed-forward, which do not see what the other adds.
    Parallel,
    /// The same with a norm for each.
    ParallelApart,
}

impl NormPlacement {
    /// Names below `model.layers.N`: before attention, after it, before the feed-forward, after it.
    pub fn names(self) -> [Option<&'static str>; 4] {
        let after_attention = "post_attention_layernorm";
        match self {
            Self::Pre => [Some("input_layernorm"), None, Some(after_attention), None],
            Self::PreAndPost => [
                Some("input_layernorm"),
                Some(after_attention),
                Some("pre_feedforward_layernorm"),
                Some("post_feedforward_layernorm"),
            ],
            Self::Post => [
                None,
                Some(after_attention),
                None,
                Some("post_feedforward_layernorm"),
            ],
            Self::Parallel => [Some("input_layernorm"), None, None, None],
            Self::ParallelApart => [Some("ln_attn"), None, Some("ln_mlp"), None],
        }
    }

    /// Whether the feed-forward sees what attention adds.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelApart)
    }
}

impl DecoderSpec {
    /// With a head of its own, and nothing scaled or capped.
    pub fn new(vocabulary: usize, width: usize, layers: Vec<LayerSpec>) -> Self {
        Self {
            vocabulary,
            width,
            tied_head: false,
            layers,
            names: Names::USUAL,
            norm: NormKind::RootMeanSquare,
            norm_epsilon: 1e-5,
            norm_offset: 0.0,
            embed_scale: 1.0,
            logit_scale: 1.0,
            final_softcap: None,
            router_aux_loss_coef: 0.0,
            context: 2048,
            padding: None,
        }
    }

    /// Whether embedding, norms and logits are as they are, with nothing added, multiplied or
    /// capped.
    pub fn has_plain_stream(&self) -> bool {
        let factors = [self.embed_scale, self.logit_scale, 1.0 + self.norm_offset];
        let is_plain = self.final_softcap.is_none() && self.norm == NormKind::RootMeanSquare;
        is_plain
            && factors
                .iter()
                .all(|factor| factor.to_bits() == 1_f64.to_bits())
    }

    /// Tokens that a text may have: those that the model was made for, or any number where every
    /// layer looks back over a window only.
    pub fn longest(&self) -> Option<usize> {
        let slides = self
            .layers
            .iter()
            .all(|layer| layer.mixer.span() != Span::Full);
        (!slides).then_some(self.context)
    }

    /// What keeps every weight of it from training, in words; `None` where all can.
    pub fn keeps_from_full_training(&self) -> Option<&'static str> {
        let has_sinks = self
            .layers
            .iter()
            .any(|layer| layer.mixer.grouped().is_some_and(|grouped| grouped.sinks));
        has_sinks.then_some("attention sinks get no gradient")
    }

    /// The model in words.
    pub fn describe(&self) -> String {
        let Some(LayerSpec { mixer, .. }) = self.layers.first() else {
            return "no layers".to_owned();
        };
        let windows = self
            .layers
            .iter()
            .filter(|layer| layer.mixer.span() != Span::Full)
            .count();
        let [heads, kv_heads, head_dim] = mixer.heads();
        let normalizes = mixer
            .grouped()
            .is_some_and(|grouped| grouped.qk_norm != QueryKeyNorm::None);
        format!(
            "{} layers of width {}, {heads} heads of {head_dim} on {}, {}, vocabulary {}{}{}{}",
            self.layers.len(),
            self.width,
            match mixer {
                MixerSpec::Grouped(_) => format!("{kv_heads} key heads"),
                MixerSpec::Latent(latent) => format!("latent rows of {}", latent.kv_rank),
            },
            self.describe_mlp(),
            self.vocabulary,
            if self.tied_head { ", tied head" } else { "" },
            if normalizes {
                ", normalized queries and keys"
            } else {
                ""
            },
            if windows > 0 {
                format!(", sliding window in {windows} layers")
            } else {
                String::new()
            },
        )
    }

    fn describe_mlp(&self) -> String {
        let dense = self
            .layers
            .iter()
            .map(|layer| &layer.mlp)
            .find(|mlp| mlp.experts().is_none());
        let dense = dense.map(|mlp| format!("feed-forward {}", mlp.inner()));
        let experts = self
            .layers
            .iter()
            .filter_map(|layer| layer.mlp.experts())
            .collect::<Vec<_>>();
        let experts = experts.first().map(|first| {
            let RouterSpec {
                experts: count,
                chosen,
                ..
            } = first.router;
            let shared = first.shared.map_or_else(String::new, |inner| {
                format!(
                    " beside a shared \
            one of {inner}"
                )
            });
            format!(
                "{chosen} of {count} experts of {}{shared} in {} layers",
                first.expert.inner,
                experts.len()
            )
        });
        [dense, experts]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }
}
