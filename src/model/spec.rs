//! What a decoder is, as data. A family's file makes it; nothing else knows the family.

use std::collections::BTreeSet;

use crate::nn::attention::Span;
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
    /// ε of every root-mean-square norm.
    pub norm_epsilon: f64,
    /// What is added to the weight of every norm.
    pub norm_offset: f64,
    /// What rows of the embedding are multiplied by.
    pub embed_scale: f64,
    /// What logits are multiplied by.
    pub logit_scale: f64,
    /// c, where a logit z becomes c tanh(z / c) after that.
    pub final_softcap: Option<f64>,
    /// Tokens that the model was made for.
    pub context: usize,
}

/// One block: attention and a gated feed-forward, what each gives added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// The attention.
    pub mixer: GroupedSpec,
    /// The feed-forward.
    pub mlp: GatedSpec,
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
    /// One for all.
    Fused,
}

impl LayerSpec {
    /// How many modules project the input of attention, its output, the input of the feed-forward, and its output.
    pub fn group_sizes(&self) -> [usize; 4] {
        let of = |modules: Modules, separate: usize| if modules == Modules::Fused { 1 } else { separate };
        [of(self.mixer.qkv, 3), 1, of(self.mlp.gate_up, 2), 1]
    }

    /// Norms before attention and feed-forward, and nothing else.
    pub fn new(mixer: GroupedSpec, mlp: GatedSpec) -> Self {
        Self { mixer, mlp, norms: NormPlacement::Pre, residual_scale: 1.0 }
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
        }
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
}

impl GroupedSpec {
    /// Without biases, norms, window or cap, scores divided by the root of a head's width.
    pub fn new([heads, kv_heads, head_dim]: [usize; 3], rope: RopeSpec) -> Self {
        let (rope, score_scale) = (Some(rope), 1.0 / (head_dim as f64).sqrt());
        let (qkv, qk_norm, span) = (Modules::Separate, QueryKeyNorm::None, Span::Full);
        let (qkv_bias, output_bias, softcap) = (false, false, None);
        Self { heads, kv_heads, head_dim, qkv, qkv_bias, output_bias, qk_norm, rope, span, score_scale, softcap }
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

/// A linear module of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearSpec {
    /// Its name, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// What it does with its weight.
    pub role: Role,
}

/// What a module does with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It projects within a block.
    Projection,
    /// It looks up rows: inputs are the tokens of the vocabulary.
    Embedding,
    /// It gives logits: outputs are the tokens of the vocabulary.
    Head,
    /// The same with the embedding's weight.
    TiedHead,
}

impl LinearSpec {
    /// The tensor of its weight.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Rows and columns of its weight in a checkpoint.
    pub fn weight_shape(&self) -> [usize; 2] {
        match self.role {
            Role::Embedding => [self.inputs, self.outputs],
            Role::Projection | Role::Head | Role::TiedHead => [self.outputs, self.inputs],
        }
    }

    /// Whether it is the embedding or the head.
    pub fn is_table(&self) -> bool {
        self.role != Role::Projection
    }
}

/// Names of a layer's modules below `model.layers.N`.
const QKV: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
const FUSED_QKV: &str = "self_attn.qkv_proj";
const ATTENTION_OUTPUT: &str = "self_attn.o_proj";
const GATE_UP: [&str; 2] = ["mlp.gate_proj", "mlp.up_proj"];
const FUSED_GATE_UP: &str = "mlp.gate_up_proj";
const MLP_OUTPUT: &str = "mlp.down_proj";
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const FINAL_NORM: &str = "model.norm.weight";
pub(super) const HEAD: &str = "lm_head.weight";
pub(super) const QUERY_KEY_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

/// The module of a weight.
pub(super) fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// The tensor of a norm in a layer.
pub(super) fn norm_name(layer: usize, norm: &str) -> String {
    format!("model.layers.{layer}.{norm}.weight")
}

impl DecoderSpec {
    /// With a head of its own, and nothing scaled or capped.
    pub fn new(vocabulary: usize, width: usize, layers: Vec<LayerSpec>) -> Self {
        let (norm_offset, embed_scale, logit_scale) = (0.0, 1.0, 1.0);
        let (tied_head, norm_epsilon, context, final_softcap) = (false, 1e-5, 2048, None);
        Self { vocabulary, width, tied_head, layers, norm_epsilon, norm_offset, embed_scale, logit_scale, final_softcap, context }
    }

    /// What an adapter can be attached to: the embedding, the projections of the blocks in checkpoint order, the head.
    pub fn modules(&self) -> Vec<LinearSpec> {
        let (vocabulary, width) = (self.vocabulary, self.width);
        let of_head = if self.tied_head { Role::TiedHead } else { Role::Head };
        let table = |name: &str, inputs, outputs, role| LinearSpec { name: name.to_owned(), inputs, outputs, bias: false, role };
        let embedding = table(module_of(EMBEDDING), vocabulary, width, Role::Embedding);
        let head = table(module_of(HEAD), width, vocabulary, of_head);
        [vec![embedding], self.projections(), vec![head]].concat()
    }

    /// The projections of the blocks in checkpoint order.
    pub fn projections(&self) -> Vec<LinearSpec> {
        self.layers.iter().enumerate().flat_map(|(index, layer)| self.layer_projections(index, layer)).collect()
    }

    pub(super) fn layer_projections(&self, index: usize, layer: &LayerSpec) -> Vec<LinearSpec> {
        let (mixer, mlp, width) = (&layer.mixer, &layer.mlp, self.width);
        let (q, kv) = (mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim);
        let linear = |name: &str, inputs: usize, outputs: usize, bias: bool| LinearSpec {
            name: format!("model.layers.{index}.{name}"),
            inputs,
            outputs,
            bias,
            role: Role::Projection,
        };
        let mut linears = match mixer.qkv {
            Modules::Fused => vec![linear(FUSED_QKV, width, q + 2 * kv, mixer.qkv_bias)],
            Modules::Separate => {
                QKV.into_iter().zip([q, kv, kv]).map(|(name, outputs)| linear(name, width, outputs, mixer.qkv_bias)).collect()
            }
        };
        linears.push(linear(ATTENTION_OUTPUT, q, width, mixer.output_bias));
        match mlp.gate_up {
            Modules::Fused => linears.push(linear(FUSED_GATE_UP, width, 2 * mlp.inner, mlp.bias)),
            Modules::Separate => linears.extend(GATE_UP.map(|name| linear(name, width, mlp.inner, mlp.bias))),
        }
        linears.push(linear(MLP_OUTPUT, mlp.inner, width, mlp.bias));
        linears
    }

    /// Every tensor of the checkpoint with its shape; linear weights are [out, in] there.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors =
            vec![(EMBEDDING.to_owned(), vec![self.vocabulary, self.width]), (FINAL_NORM.to_owned(), vec![self.width])];
        if !self.tied_head {
            tensors.push((HEAD.to_owned(), vec![self.vocabulary, self.width]));
        }
        for linear in self.projections() {
            tensors.push((format!("{}.weight", linear.name), vec![linear.outputs, linear.inputs]));
            if linear.bias {
                tensors.push((format!("{}.bias", linear.name), vec![linear.outputs]));
            }
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let names = layer.norms.names().into_iter().flatten();
            tensors.extend(names.map(|norm| (norm_name(index, norm), vec![self.width])));
            for (norm, width) in QUERY_KEY_NORMS.into_iter().zip(layer.mixer.norm_widths().into_iter().flatten()) {
                tensors.push((norm_name(index, norm), vec![width]));
            }
        }
        tensors
    }

    /// The first tensor that only one of two models has, in words, by what each is called; `None` where all names and shapes are shared.
    pub fn mismatch(&self, name: &str, other: &Self, other_name: &str) -> Option<String> {
        let only = |left: &Self, right: &Self| {
            let known: BTreeSet<_> = right.tensors().into_iter().collect();
            left.tensors().into_iter().find(|tensor| !known.contains(tensor))
        };
        let said = |(tensor, shape): (String, Vec<usize>), has: &str, lacks: &str| {
            format!("{has} has tensor `{tensor}` of shape {shape:?}, {lacks} has not")
        };
        let of_other = || only(other, self).map(|tensor| said(tensor, other_name, name));
        only(self, other).map(|tensor| said(tensor, name, other_name)).or_else(of_other)
    }

    /// Whether embedding, norms and logits are as they are, with nothing added, multiplied or capped.
    pub fn has_plain_stream(&self) -> bool {
        let factors = [self.embed_scale, self.logit_scale, 1.0 + self.norm_offset];
        factors.iter().all(|factor| factor.to_bits() == 1_f64.to_bits()) && self.final_softcap.is_none()
    }

    /// Tokens that a text may have: those that the model was made for, or any number where every layer looks back over a window
    /// only.
    pub fn longest(&self) -> Option<usize> {
        let slides = self.layers.iter().all(|layer| layer.mixer.span != Span::Full);
        (!slides).then_some(self.context)
    }

    /// Parameters of the base.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// The model in words.
    pub fn describe(&self) -> String {
        let Some(LayerSpec { mixer, mlp, .. }) = self.layers.first() else { return "no layers".to_owned() };
        let windows = self.layers.iter().filter(|layer| layer.mixer.span != Span::Full).count();
        format!(
            "{} layers of width {}, {} heads of {} on {} key heads, feed-forward {}, vocabulary {}{}{}{}",
            self.layers.len(),
            self.width,
            mixer.heads,
            mixer.head_dim,
            mixer.kv_heads,
            mlp.inner,
            self.vocabulary,
            if self.tied_head { ", tied head" } else { "" },
            if mixer.qk_norm == QueryKeyNorm::None { "" } else { ", normalised queries and keys" },
            if windows > 0 { format!(", sliding window in {windows} layers") } else { String::new() },
        )
    }
}
