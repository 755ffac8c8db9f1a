//! What a decoder is, as data. A family's file makes it; nothing else knows the family.

use std::collections::BTreeSet;

use crate::nn::attention::Span;
use crate::nn::rope::RopeSpec;

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
    /// Tokens that the model was made for.
    pub context: usize,
}

/// One block: attention and a gated feed-forward, each behind a norm.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// The attention.
    pub mixer: GroupedSpec,
    /// The feed-forward.
    pub mlp: GatedSpec,
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
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Whether each query and key head is normalised before the rotation.
    pub qk_norm: bool,
    /// The rotation.
    pub rope: RopeSpec,
    /// Which earlier tokens a query sees.
    pub span: Span,
}

/// down(silu(gate(x)) · up(x)), Shazeer 2020, arXiv:2002.05202.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedSpec {
    /// Width between.
    pub inner: usize,
    /// Whether the three projections have a bias.
    pub bias: bool,
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
}

/// Names of a layer's modules below `model.layers.N`.
pub(super) const ATTENTION: [&str; 4] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
pub(super) const MLP: [&str; 3] = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const FINAL_NORM: &str = "model.norm.weight";
pub(super) const HEAD: &str = "lm_head.weight";
/// Those of the residual stream, before attention and before the feed-forward.
pub(super) const LAYER_NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];
pub(super) const QUERY_KEY_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

/// The tensor of a norm in a layer.
pub(super) fn norm_name(layer: usize, norm: &str) -> String {
    format!("model.layers.{layer}.{norm}.weight")
}

impl DecoderSpec {
    /// The projections of the blocks in checkpoint order: what an adapter can be attached to.
    pub fn projections(&self) -> Vec<LinearSpec> {
        self.layers.iter().enumerate().flat_map(|(index, layer)| self.layer_projections(index, layer)).collect()
    }

    fn layer_projections(&self, index: usize, layer: &LayerSpec) -> Vec<LinearSpec> {
        let (mixer, mlp, width) = (&layer.mixer, &layer.mlp, self.width);
        let (q, kv) = (mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim);
        let sizes = [
            (width, q, mixer.qkv_bias),
            (width, kv, mixer.qkv_bias),
            (width, kv, mixer.qkv_bias),
            (q, width, mixer.output_bias),
            (width, mlp.inner, mlp.bias),
            (width, mlp.inner, mlp.bias),
            (mlp.inner, width, mlp.bias),
        ];
        let names = ATTENTION.into_iter().chain(MLP).map(|name| format!("model.layers.{index}.{name}"));
        names.zip(sizes).map(|(name, (inputs, outputs, bias))| LinearSpec { name, inputs, outputs, bias }).collect()
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
            tensors.extend(LAYER_NORMS.map(|norm| (norm_name(index, norm), vec![self.width])));
            if layer.mixer.qk_norm {
                tensors.extend(QUERY_KEY_NORMS.map(|norm| (norm_name(index, norm), vec![layer.mixer.head_dim])));
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
        let Some(LayerSpec { mixer, mlp }) = self.layers.first() else { return "no layers".to_owned() };
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
            if mixer.qk_norm { ", normalised queries and keys" } else { "" },
            if windows > 0 { format!(", sliding window in {windows} layers") } else { String::new() },
        )
    }
}
