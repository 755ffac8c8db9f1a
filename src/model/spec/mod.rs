//! The spec of a decoder, as data. A family's file makes it; nothing else knows the family.

mod mixer;
mod mlp;
mod recurrent;
mod scoring;

pub use mixer::{GroupedSpec, KeyValues, LatentSpec, MixerSpec, OutputGate, QueryKeyNorm};
pub use mlp::{
    ExpertForm, ExpertsSpec, GatedAndExpertsSpec, GatedSpec, MlpSpec, PlainActivation, PlainSpec,
    SharedExpertSpec, StackNames,
};
pub use recurrent::{ConvolutionSpec, RecurrentSpec};
pub use scoring::{ScoreLayerSpec, ScoreSpec, ScoringSpec};

use std::collections::BTreeSet;

use super::layout::{Names, WeightOrder};
use crate::nn::experts::RouterSpec;
use crate::ops::{Activation, RecurrenceForm, Update};
use crate::terms::Pooling;

/// A causal decoder.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a feature of its own"
)]
pub struct DecoderSpec {
    /// Tokens in the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Whether head and embedding are tied.
    pub tied_head: bool,
    /// The layers, bottom first.
    pub layers: Vec<LayerSpec>,
    /// Names of the modules in the checkpoint.
    pub names: Names,
    /// The kind of every norm of the stream.
    pub norm: NormKind,
    /// ε of every norm.
    pub norm_epsilon: f64,
    /// The offset that is added to the weight of every norm.
    pub norm_offset: f64,
    /// The factor of rows of the embedding.
    pub embed_scale: f64,
    /// The norm of what is looked up.
    pub embedding_norm: EmbeddingNorm,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Whether a learned row of each position is added to the embedding.
    pub learns_positions: bool,
    /// The row of the first position in the table of positions: rows before it are those of
    /// padding.
    pub first_position: usize,
    /// Rows of the table of token types, of which the first is added to the embedding; 0: there is
    /// no such table.
    pub token_types: usize,
    /// The order of weights of linear maps in the checkpoint.
    pub weight_order: WeightOrder,
    /// The factor of logits.
    pub logit_scale: f64,
    /// The cap c of logits: a scaled logit z becomes c tanh(z / c).
    pub final_softcap: Option<f64>,
    /// The coefficient of the load-balancing loss of routed experts in training, where the recipe
    /// does not give one.
    pub router_aux_loss_coef: f64,
    /// Context length of the model, tokens.
    pub context: usize,
    /// The padding token. Its looked-up rows give adapters of the embedding no gradient:
    /// `padding_idx` of torch,
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html>.
    pub padding: Option<u32>,
    /// The heads that score texts and words of an encoder; `None` of a causal model, which has one
    /// map at the last token of a text.
    pub scoring: Option<ScoringSpec>,
}

/// The norm of the rows that are looked up for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingNorm {
    /// There is none.
    None,
    /// A norm without a weight, of the rows of the embedding alone.
    Bare,
    /// A norm of the model's kind, of the sum of the rows of token, position and token type.
    OfSum,
}

/// The kind of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm, which divides by the root of the mean square, Zhang and Sennrich 2019,
    /// arXiv:1910.07467.
    RootMeanSquare,
    /// RMS norm without a weight, also of queries and keys.
    Bare,
    /// Layer norm, which subtracts the mean first and adds a bias at the end: Ba et al. 2016,
    /// arXiv:1607.06450.
    Layer,
    /// Layer norm without a bias.
    LayerWithoutBias,
}

impl NormKind {
    /// Whether there is a weight.
    pub fn has_weight(self) -> bool {
        self != Self::Bare
    }

    /// Whether a bias is added.
    pub fn has_bias(self) -> bool {
        self == Self::Layer
    }

    /// Whether the mean is subtracted.
    pub fn centers(self) -> bool {
        matches!(self, Self::Layer | Self::LayerWithoutBias)
    }
}

/// One block: attention and a feed-forward, each of whose outputs is added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// The attention.
    pub mixer: MixerSpec,
    /// The feed-forward.
    pub mlp: MlpSpec,
    /// The places of the norms.
    pub norms: NormPlacement,
    /// The factor of what is added to the stream.
    pub residual_scale: f64,
    /// What the layer adds for the token itself.
    pub per_layer_input: Option<PerLayerInputSpec>,
    /// Whether the layer's output is multiplied by a number of the checkpoint, which never trains.
    pub has_scalar: bool,
}

/// The input that a layer has of its own for each token, beside the stream: after the feed-forward
/// it adds norm(projection(a(gate(x)) · input)). See
/// <https://huggingface.co/docs/transformers/model_doc/gemma4>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerLayerInputSpec {
    /// Width of the input.
    pub width: usize,
    /// The activation a.
    pub activation: Activation,
}

/// Whether projections that share an input are modules of their own, or one module whose rows lie
/// one below the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modules {
    /// Each projection is a module.
    Separate,
    /// One module: all rows of the first, of the second, of the third.
    Fused,
    /// One module: for each key head its queries, its key and its value.
    FusedByGroup,
}

impl LayerSpec {
    /// Returns the number of linear maps of attention.
    pub fn mixer_maps(&self) -> usize {
        match &self.mixer {
            MixerSpec::Grouped(grouped) => {
                let of_gate = usize::from(matches!(grouped.gate, OutputGate::Heads(_)));
                grouped.input_maps() + of_gate + 1
            }
            MixerSpec::Latent(latent) => 4 + usize::from(latent.query_rank.is_some()),
            MixerSpec::Recurrent(recurrent) => recurrent.inputs().len() + 1,
            MixerSpec::Convolution(_) => 2,
        }
    }

    /// Returns the number of linear maps of the feed-forward, all experts included.
    pub fn mlp_maps(&self) -> usize {
        match &self.mlp {
            MlpSpec::Gated(gated) => gated.maps(),
            MlpSpec::Plain(_) => 2,
            MlpSpec::Experts(experts) => experts.all_maps(),
            MlpSpec::GatedAndExperts(both) => both.gated.maps() + both.experts.all_maps(),
        }
    }

    /// Returns the number of linear maps of the layer.
    pub fn maps(&self) -> usize {
        let of_input = if self.per_layer_input.is_some() { 2 } else { 0 };
        self.mixer_maps() + self.mlp_maps() + of_input
    }

    /// Makes a layer with norms before attention and feed-forward only.
    pub fn new(mixer: impl Into<MixerSpec>, mlp: impl Into<MlpSpec>) -> Self {
        Self {
            mixer: mixer.into(),
            mlp: mlp.into(),
            norms: NormPlacement::Pre,
            residual_scale: 1.0,
            per_layer_input: None,
            has_scalar: false,
        }
    }
}

/// The places of a layer's norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the feed-forward.
    Pre,
    /// Before and after each of them.
    PreAndPost,
    /// Before the feed-forward only: the stream is normalized already.
    PreMlp,
    /// After each of them.
    Post,
    /// Of the stream after each sum: x = norm(x + f(x)), Vaswani et al. 2017, arXiv:1706.03762.
    Sum,
    /// Of the stream after attention's sum. The norm after the second sum stands before the head.
    FirstSum,
    /// One norm of the stream, whose result attention and feed-forward both take: neither sees what
    /// the other adds.
    Parallel,
    /// Parallel attention and feed-forward, each with a norm of its own.
    ParallelApart,
}

impl NormPlacement {
    /// Returns the names below `model.layers.N`: before attention, after it, before the
    /// feed-forward, after it.
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
            Self::PreMlp => [None, None, Some(after_attention), None],
            Self::Post | Self::Sum => [
                None,
                Some(after_attention),
                None,
                Some("post_feedforward_layernorm"),
            ],
            Self::FirstSum => [None, Some(after_attention), None, None],
            Self::Parallel => [Some("input_layernorm"), None, None, None],
            Self::ParallelApart => [Some("ln_attn"), None, Some("ln_mlp"), None],
        }
    }

    /// Whether norms are those of sums.
    pub fn is_of_sums(self) -> bool {
        matches!(self, Self::Sum | Self::FirstSum)
    }

    /// Whether attention and feed-forward are parallel.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelApart)
    }
}

impl DecoderSpec {
    /// Makes a decoder with an untied head, in which nothing is scaled or capped.
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
            embedding_norm: EmbeddingNorm::None,
            head_bias: false,
            learns_positions: false,
            first_position: 0,
            token_types: 0,
            weight_order: WeightOrder::OutIn,
            logit_scale: 1.0,
            final_softcap: None,
            router_aux_loss_coef: 0.0,
            context: 2048,
            padding: None,
            scoring: None,
        }
    }

    /// Returns the hidden rows at which a text is scored.
    pub fn score_pooling(&self) -> Pooling {
        let scoring = self.scoring.as_ref();
        scoring.map_or(Pooling::Last, |scoring| scoring.pooling)
    }

    /// Returns the tensors that a checkpoint may have of heads that score texts or words.
    pub fn score_tensors(&self) -> Vec<String> {
        let of_map = |module: &str| ["weight", "bias"].map(|part| format!("{module}.{part}"));
        let Some(scoring) = &self.scoring else {
            let modules = BTreeSet::from(["score", self.names.token_scores]);
            return modules.into_iter().flat_map(of_map).collect();
        };
        let of_head = |head: &ScoreSpec| {
            let of_layer = head
                .layer
                .iter()
                .flat_map(|layer| layer.tensors(self.width));
            let of_layer = of_layer.map(|(name, _)| name);
            of_layer.chain(of_map(head.module)).collect::<Vec<_>>()
        };
        let all = [&scoring.texts, &scoring.words].map(of_head).concat();
        BTreeSet::from_iter(all).into_iter().collect()
    }

    /// Whether embedding, norms and logits are plain, with nothing added, multiplied or capped.
    pub fn has_plain_stream(&self) -> bool {
        let factors = [self.embed_scale, self.logit_scale, 1.0 + self.norm_offset];
        let is_plain = self.final_softcap.is_none()
            && self.norm == NormKind::RootMeanSquare
            && self.embedding_norm == EmbeddingNorm::None
            && !self.head_bias
            && !self.learns_positions;
        is_plain
            && factors
                .iter()
                .all(|factor| factor.to_bits() == 1_f64.to_bits())
    }

    /// Returns the longest text in tokens: the context length, or any length where every layer has
    /// a window.
    pub fn longest(&self) -> Option<usize> {
        let slides = self
            .layers
            .iter()
            .all(|layer| layer.mixer.span().is_window());
        (!slides || self.learns_positions).then_some(self.context)
    }

    /// Whether a higher layer uses the keys and values of this one.
    pub fn is_source(&self, index: usize) -> bool {
        self.layers
            .iter()
            .any(|layer| layer.mixer.source() == Some(index))
    }

    /// Returns the width of the inputs per layer; `None` where layers have none.
    pub fn per_layer_width(&self) -> Option<usize> {
        let [first, ..] = &self.layers[..] else {
            return None;
        };
        first.per_layer_input.map(|input| input.width)
    }

    /// Returns, in words, why not every weight can train; `None` where all can.
    pub fn keeps_from_full_training(&self) -> Option<&'static str> {
        let has_sinks = self
            .layers
            .iter()
            .any(|layer| layer.mixer.grouped().is_some_and(|grouped| grouped.sinks));
        if self.is_encoder() {
            return Some("token types and the norm of the embedding get no gradient");
        }
        has_sinks.then_some("attention sinks get no gradient")
    }

    /// Returns the number of rows of the table of positions.
    pub fn positions(&self) -> usize {
        self.first_position + self.context
    }

    /// Whether tokens see later ones, so that nothing can be generated.
    pub fn is_encoder(&self) -> bool {
        self.layers
            .iter()
            .any(|layer| !layer.mixer.span().is_causal())
    }

    /// Returns the module of the norm before the head: where every layer normalizes its sums, that
    /// of the last one.
    pub fn final_norm(&self) -> String {
        match self.layers.last() {
            Some(layer) if layer.norms == NormPlacement::FirstSum => {
                let [.., name] = self.names.of_norms(NormPlacement::Sum);
                let name = name.unwrap_or_default();
                self.names.in_layer(self.layers.len() - 1, name)
            }
            _ => self.names.final_norm(),
        }
    }

    /// Describes the model in words.
    pub fn describe(&self) -> String {
        let attends = |layer: &&LayerSpec| !layer.mixer.carries();
        let attention = self.layers.iter().find(attends);
        let Some(LayerSpec { mixer, .. }) = attention.or(self.layers.first()) else {
            return "no layers".to_owned();
        };
        let windows = self
            .layers
            .iter()
            .filter(|layer| layer.mixer.span().is_window())
            .count();
        let [heads, kv_heads, head_dim] = mixer.heads();
        let normalizes = mixer
            .grouped()
            .is_some_and(|grouped| grouped.qk_norm != QueryKeyNorm::None);
        format!(
            "{} layers of width {}, {heads} heads of {head_dim} on {}, {}, vocabulary {}{}{}{}{}",
            self.layers.len(),
            self.width,
            match mixer {
                MixerSpec::Grouped(_) | MixerSpec::Recurrent(_) | MixerSpec::Convolution(_) =>
                    format!("{kv_heads} key heads"),
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
            self.describe_recurrence() + &self.describe_unusual(head_dim),
        )
    }

    fn describe_recurrence(&self) -> String {
        let all = self
            .layers
            .iter()
            .filter_map(|layer| layer.mixer.recurrent())
            .collect::<Vec<_>>();
        let Some(first) = all.first() else {
            return self.describe_convolutions();
        };
        let RecurrenceForm {
            update,
            value_heads,
            key_dim,
            value_dim,
            ..
        } = first.form;
        let kind = match update {
            Update::Delta => "gated delta rule",
            Update::Sum { .. } => "Mamba 2",
        };
        format!(
            ", {kind} with {value_heads} states of {key_dim} by {value_dim} in {} layers",
            all.len()
        )
    }

    fn describe_convolutions(&self) -> String {
        let mut taps = self.layers.iter().filter_map(|layer| match &layer.mixer {
            MixerSpec::Convolution(convolution) => Some(convolution.taps),
            _ => None,
        });
        taps.next().map_or_else(String::new, |first| {
            format!(
                ", convolutions of {first} tokens in {} layers",
                1 + taps.count()
            )
        })
    }

    /// Describes what layers have beside attention and a feed-forward, and where they differ.
    fn describe_unusual(&self, head_dim: usize) -> String {
        let mixers = || self.layers.iter().filter_map(|layer| layer.mixer.grouped());
        let others: BTreeSet<usize> = mixers()
            .map(|mixer| mixer.head_dim)
            .filter(|other| *other != head_dim)
            .collect();
        let others = others.into_iter().map(|other| {
            let layers = mixers().filter(|mixer| mixer.head_dim == other).count();
            format!(", heads of {other} in {layers} layers")
        });
        let of_source = |source: fn(&GroupedSpec) -> bool, said: &str| {
            let layers = mixers().filter(|mixer| source(mixer)).count();
            (layers > 0).then(|| format!(", {said} in {layers} layers"))
        };
        let as_values = of_source(
            |mixer| mixer.key_values == KeyValues::KeysAsValues,
            "keys as values",
        );
        let shared = of_source(
            |mixer| matches!(mixer.key_values, KeyValues::OfLayer(_)),
            "keys and values of lower layers",
        );
        let inputs = self
            .per_layer_width()
            .map(|width| format!(", inputs of {width} per layer"));
        others
            .chain(as_values)
            .chain(shared)
            .chain(inputs)
            .collect()
    }

    fn describe_mlp(&self) -> String {
        let dense = |layer: &LayerSpec| match &layer.mlp {
            MlpSpec::GatedAndExperts(both) => Some(both.gated.inner),
            MlpSpec::Experts(_) => None,
            mlp => Some(mlp.inner()),
        };
        let dense = self.layers.iter().find_map(dense);
        let dense = dense.map(|inner| format!("feed-forward {inner}"));
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
            let shared = first.shared.map_or_else(String::new, |shared| {
                format!(" beside a shared one of {}", shared.inner)
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
