//! What a decoder is, as data. A family's file makes it; nothing else knows the family.

use super::layout::Names;
use crate::nn::attention::Span;
use crate::nn::experts::RouterSpec;
use crate::nn::rope::RopeSpec;
use crate::ops::Activation;

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
    /// What the load-balancing loss of routed experts counts in training where the recipe does not say.
    pub router_aux_loss_coef: f64,
    /// Tokens that the model was made for.
    pub context: usize,
    /// The token whose looked up rows give adapters of the embedding no gradient: `padding_idx` of torch,
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html>.
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
    /// Where the stream and what is added to it are normalised.
    pub norms: NormPlacement,
    /// What is added to the stream is multiplied by this.
    pub residual_scale: f64,
}

/// Whether projections of one input are modules of their own, or one whose rows lie one below the other.
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
            MlpSpec::Experts(experts) => experts.maps() * experts.router.experts + if experts.shared.is_some() { 3 } else { 0 },
        }
    }

    /// Norms before attention and feed-forward, and nothing else.
    pub fn new(mixer: impl Into<MixerSpec>, mlp: impl Into<MlpSpec>) -> Self {
        Self { mixer: mixer.into(), mlp: mlp.into(), norms: NormPlacement::Pre, residual_scale: 1.0 }
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
            Self::Post => [None, Some(after_attention), None, Some("post_feedforward_layernorm")],
            Self::Parallel => [Some("input_layernorm"), None, None, None],
            Self::ParallelApart => [Some("ln_attn"), None, Some("ln_mlp"), None],
        }
    }

    /// Whether the feed-forward sees what attention adds.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelApart)
    }
}

/// Whether queries and keys are normalised before the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// They are not.
    None,
    /// Each head by itself.
    Heads,
    /// All heads together.
    Whole,
}

/// How tokens see each other.
#[derive(Debug, Clone, PartialEq)]
pub enum MixerSpec {
    /// Every head, or every group of them, has keys and values of its own.
    Grouped(GroupedSpec),
    /// Keys and values of all heads come from one narrow row a token.
    Latent(LatentSpec),
}

impl From<GroupedSpec> for MixerSpec {
    fn from(spec: GroupedSpec) -> Self {
        Self::Grouped(spec)
    }
}

impl From<LatentSpec> for MixerSpec {
    fn from(spec: LatentSpec) -> Self {
        Self::Latent(spec)
    }
}

impl MixerSpec {
    /// The rotation; `None`: queries and keys have no place.
    pub fn rope(&self) -> Option<&RopeSpec> {
        match self {
            Self::Grouped(grouped) => grouped.rope.as_ref(),
            Self::Latent(latent) => Some(&latent.rope),
        }
    }

    /// Which earlier tokens a query sees.
    pub fn span(&self) -> Span {
        match self {
            Self::Grouped(grouped) => grouped.span,
            Self::Latent(_) => Span::Full,
        }
    }

    /// Query heads, heads of keys and values, and the width of each.
    pub fn heads(&self) -> [usize; 3] {
        match self {
            Self::Grouped(GroupedSpec { heads, kv_heads, head_dim, .. }) => [*heads, *kv_heads, *head_dim],
            Self::Latent(latent) => [latent.heads, latent.heads, latent.head_dim()],
        }
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        let [heads, _, head_dim] = self.heads();
        heads * head_dim
    }

    /// That of heads with keys and values of their own.
    pub fn grouped(&self) -> Option<&GroupedSpec> {
        if let Self::Grouped(grouped) = self { Some(grouped) } else { None }
    }

    /// The same, to be changed.
    pub fn grouped_mut(&mut self) -> Option<&mut GroupedSpec> {
        if let Self::Grouped(grouped) = self { Some(grouped) } else { None }
    }
}

/// Multi-head, grouped-query or multi-query attention.
#[derive(Debug, Clone, PartialEq)]
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
    /// Norms of queries and keys.
    pub qk_norm: QueryKeyNorm,
    /// The rotation; `None`: queries and keys have no place.
    pub rope: Option<RopeSpec>,
    /// Which earlier tokens a query sees.
    pub span: Span,
    /// What the product of a query and a key is multiplied by.
    pub score_scale: f64,
    /// c, where a score s becomes c tanh(s / c) after that.
    pub softcap: Option<f64>,
    /// Whether a head has a sink: a score that takes its share of the softmax and has no value.
    pub sinks: bool,
}

impl GroupedSpec {
    /// Without biases, norms, window, cap or sinks, scores divided by the root of a head's width.
    pub fn new([heads, kv_heads, head_dim]: [usize; 3], rope: RopeSpec) -> Self {
        let (rope, score_scale) = (Some(rope), 1.0 / (head_dim as f64).sqrt());
        let (qkv, qk_norm, span) = (Modules::Separate, QueryKeyNorm::None, Span::Full);
        let (qkv_bias, output_bias, softcap, sinks) = (false, false, None, false);
        Self { heads, kv_heads, head_dim, qkv, qkv_bias, output_bias, qk_norm, rope, span, score_scale, softcap, sinks }
    }

    /// Widths of the norms of queries and of keys.
    pub fn norm_widths(&self) -> Option<[usize; 2]> {
        match self.qk_norm {
            QueryKeyNorm::None => None,
            QueryKeyNorm::Heads => Some([self.head_dim; 2]),
            QueryKeyNorm::Whole => Some([self.heads * self.head_dim, self.kv_heads * self.head_dim]),
        }
    }
}

/// Multi-head latent attention, arXiv:2405.04434: keys and values of all heads are projected from one normalised row of
/// `kv_rank` numbers a token; beside it stands a rotated key that all heads share.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentSpec {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Width of the normalised row that queries are projected from; `None`: from the stream.
    pub query_rank: Option<usize>,
    /// Width of the row that keys and values are projected from.
    pub kv_rank: usize,
    /// Features of a query or key head that are not rotated.
    pub plain_dim: usize,
    /// Features that are.
    pub rope_dim: usize,
    /// Features of a value head.
    pub value_dim: usize,
    /// Whether the projections onto the narrow rows and the output have a bias.
    pub bias: bool,
    /// The rotation.
    pub rope: RopeSpec,
    /// Whether the features that turn together stand side by side, not half a head apart.
    pub interleaved: bool,
    /// What the product of a query and a key is multiplied by.
    pub score_scale: f64,
    /// ε of the norms of the narrow rows.
    pub norm_epsilon: f64,
}

impl LatentSpec {
    /// Width of a query or key head.
    pub fn head_dim(&self) -> usize {
        self.plain_dim + self.rope_dim
    }
}

/// What a layer makes of each token by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpSpec {
    /// With a gate.
    Gated(GatedSpec),
    /// Without.
    Plain(PlainSpec),
    /// A few of many.
    Experts(ExpertsSpec),
}

impl From<GatedSpec> for MlpSpec {
    fn from(spec: GatedSpec) -> Self {
        Self::Gated(spec)
    }
}

impl From<PlainSpec> for MlpSpec {
    fn from(spec: PlainSpec) -> Self {
        Self::Plain(spec)
    }
}

impl From<ExpertsSpec> for MlpSpec {
    fn from(spec: ExpertsSpec) -> Self {
        Self::Experts(spec)
    }
}

impl MlpSpec {
    /// That of experts.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        if let Self::Experts(experts) = self { Some(experts) } else { None }
    }

    /// That with a gate.
    pub fn gated(&self) -> Option<&GatedSpec> {
        if let Self::Gated(gated) = self { Some(gated) } else { None }
    }

    /// Width between: of an expert, where there are some.
    pub fn inner(&self) -> usize {
        match self {
            Self::Gated(gated) => gated.inner,
            Self::Plain(plain) => plain.inner,
            Self::Experts(experts) => experts.expert.inner,
        }
    }

    /// The same, to be changed.
    pub fn inner_mut(&mut self) -> &mut usize {
        match self {
            Self::Gated(gated) => &mut gated.inner,
            Self::Plain(plain) => &mut plain.inner,
            Self::Experts(experts) => &mut experts.expert.inner,
        }
    }
}

/// down(a(gate(x)) · up(x)), Shazeer 2020, arXiv:2002.05202.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedSpec {
    /// Width between.
    pub inner: usize,
    /// Modules of gate and up.
    pub gate_up: Modules,
    /// Whether the three projections have a bias.
    pub bias: bool,
    /// a.
    pub activation: Activation,
}

impl GatedSpec {
    /// With `SiLU` and without biases.
    pub fn new(inner: usize) -> Self {
        Self { inner, gate_up: Modules::Separate, bias: false, activation: Activation::Silu }
    }
}

/// down(gelu(up(x))), with the error function.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainSpec {
    /// Width between.
    pub inner: usize,
    /// Whether both projections have a bias.
    pub bias: bool,
}

/// Σ wᵢ expertᵢ(x) over the experts that the router chooses, and those that every token has; Shazeer et al. 2017, arXiv:1701.06538.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsSpec {
    /// How experts are chosen and weighed.
    pub router: RouterSpec,
    /// One of them.
    pub expert: GatedSpec,
    /// How the checkpoint has them.
    pub form: ExpertForm,
    /// Width between of the feed-forward that every token has beside them; `None`: there is none.
    pub shared: Option<usize>,
}

/// How a checkpoint has the experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertForm {
    /// Each with modules of its own, called so: gate, up and down.
    Apart {
        /// The module in which they and their router stand.
        module: &'static str,
        /// Last names of gate, up and down.
        parts: [&'static str; 3],
    },
    /// Stacked [experts, in, out] with biases. Gate g and up u alternate, and are clamped: (clamp(u) + 1) g σ(α g) with g up to `limit`
    /// (arXiv:2508.10925).
    Stacked {
        /// α.
        alpha: f64,
        /// The largest g and |u|.
        limit: f64,
    },
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

    /// Whether embedding, norms and logits are as they are, with nothing added, multiplied or capped.
    pub fn has_plain_stream(&self) -> bool {
        let factors = [self.embed_scale, self.logit_scale, 1.0 + self.norm_offset];
        let is_plain = self.final_softcap.is_none() && self.norm == NormKind::RootMeanSquare;
        is_plain && factors.iter().all(|factor| factor.to_bits() == 1_f64.to_bits())
    }

    /// Tokens that a text may have: those that the model was made for, or any number where every layer looks back over a window
    /// only.
    pub fn longest(&self) -> Option<usize> {
        let slides = self.layers.iter().all(|layer| layer.mixer.span() != Span::Full);
        (!slides).then_some(self.context)
    }

    /// What keeps every weight of it from training, in words; `None` where all can.
    pub fn keeps_from_full_training(&self) -> Option<&'static str> {
        let has_sinks = self.layers.iter().any(|layer| layer.mixer.grouped().is_some_and(|grouped| grouped.sinks));
        has_sinks.then_some("attention sinks get no gradient")
    }

    /// The model in words.
    pub fn describe(&self) -> String {
        let Some(LayerSpec { mixer, .. }) = self.layers.first() else { return "no layers".to_owned() };
        let windows = self.layers.iter().filter(|layer| layer.mixer.span() != Span::Full).count();
        let [heads, kv_heads, head_dim] = mixer.heads();
        let normalises = mixer.grouped().is_some_and(|grouped| grouped.qk_norm != QueryKeyNorm::None);
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
            if normalises { ", normalised queries and keys" } else { "" },
            if windows > 0 { format!(", sliding window in {windows} layers") } else { String::new() },
        )
    }

    fn describe_mlp(&self) -> String {
        let dense = self.layers.iter().map(|layer| &layer.mlp).find(|mlp| mlp.experts().is_none());
        let dense = dense.map(|mlp| format!("feed-forward {}", mlp.inner()));
        let experts = self.layers.iter().filter_map(|layer| layer.mlp.experts()).collect::<Vec<_>>();
        let experts = experts.first().map(|first| {
            let RouterSpec { experts: count, chosen, .. } = first.router;
            let shared = first.shared.map_or_else(String::new, |inner| format!(" beside a shared one of {inner}"));
            format!("{chosen} of {count} experts of {}{shared} in {} layers", first.expert.inner, experts.len())
        });
        [dense, experts].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}
