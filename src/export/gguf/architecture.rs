//! A decoder as llama.cpp knows it: which of its architectures computes the same, its names of tensors, and its hyperparameters.

use super::Error;
use super::container::Value;
use crate::model::{DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, QueryKeyNorm};
use crate::nn::attention::Span;
use crate::nn::rope::{RopeScaling, RopeSpec};

/// An architecture of llama.cpp's. They differ in which tensors they have and in how they rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Pairs of neighbouring features are turned; biases where they are.
    Llama,
    /// Biases on q, k and v.
    Qwen2,
    /// Norms of q and k.
    Qwen3,
}

/// Hugging Face's names of a layer's modules, and GGUF's.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
/// The same outside of layers.
const OUTSIDE: [(&str, &str); 3] = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

impl Architecture {
    /// The architecture that computes what this decoder does.
    pub fn of(spec: &DecoderSpec) -> Result<Self, Error> {
        let Some(first) = spec.layers.first() else { return Err(Error::NotKnown { what: "a model without layers".to_owned() }) };
        let (Some(mixer), Some(mlp)) = (first.mixer.grouped(), first.mlp.gated()) else {
            return Err(Error::NotKnown { what: "latent attention, experts, or a feed-forward without a gate".to_owned() });
        };
        if spec.layers.iter().any(|layer| layer.mixer.heads() != first.mixer.heads() || layer.mlp != first.mlp) || mlp.bias {
            return Err(Error::NotKnown { what: "layers of several sizes, or biases in the feed-forward".to_owned() });
        }
        let plain = |layer: &LayerSpec| {
            let Some(mixer) = layer.mixer.grouped() else { return false };
            let GroupedSpec { heads, kv_heads, head_dim, qkv_bias, output_bias, qk_norm, rope, span, .. } = mixer.clone();
            let mixer = rope.map(|rope| GroupedSpec::new([heads, kv_heads, head_dim], rope));
            let mixer = mixer.map(|mixer| GroupedSpec { qkv_bias, output_bias, qk_norm, span, ..mixer });
            mixer.is_some_and(|mixer| *layer == LayerSpec::new(mixer, GatedSpec::new(layer.mlp.inner())))
        };
        if !spec.has_plain_stream() || !spec.layers.iter().all(plain) {
            let what = "these norms, scales or caps, another activation, or layers without a rotation".to_owned();
            return Err(Error::NotKnown { what });
        }
        match (mixer.qk_norm, mixer.qkv_bias, mixer.output_bias) {
            (QueryKeyNorm::Heads, false, false) => Ok(Self::Qwen3),
            (QueryKeyNorm::None, true, false) => Ok(Self::Qwen2),
            (QueryKeyNorm::None, qkv, output) if qkv == output => Ok(Self::Llama),
            _ => Err(Error::NotKnown { what: "these norms and biases of q, k, v and o together".to_owned() }),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// How many heads the rows of this module are to be reordered in: llama.cpp turns neighbours where Hugging Face turns halves.
    pub fn reordered_heads(self, module: &str, spec: &DecoderSpec) -> Option<usize> {
        let [heads, kv_heads, _] = spec.layers.first().filter(|_| self == Self::Llama)?.mixer.heads();
        match module.rsplit('.').next()? {
            "q_proj" => Some(heads),
            "k_proj" => Some(kv_heads),
            _ => None,
        }
    }
}

/// GGUF's name of a module, such as `blk.0.attn_q` of `model.layers.0.self_attn.q_proj`.
pub(super) fn module_name(module: &str) -> Option<String> {
    let named =
        |names: &[(&str, &str)], module: &str| names.iter().find(|(hf, _)| *hf == module).map(|(_, gguf)| (*gguf).to_owned());
    let in_layer = || {
        let (layer, rest) = module.strip_prefix("model.layers.")?.split_once('.')?;
        Some(format!("blk.{layer}.{}", named(&LAYER, rest)?))
    };
    named(&OUTSIDE, module).or_else(in_layer)
}

/// The rows of one head, from Hugging Face's order (first halves of pairs, second halves) to neighbours.
pub(super) fn neighbours(head: &[f32], width: usize) -> Vec<f32> {
    let (first, second) = head.split_at(head.len() / 2);
    first.chunks_exact(width).zip(second.chunks_exact(width)).flat_map(|(first, second)| [first, second].concat()).collect()
}

/// The hyperparameters under llama.cpp's keys.
pub(super) fn hyperparameters(architecture: Architecture, spec: &DecoderSpec) -> Result<Vec<(String, Value)>, Error> {
    let LayerSpec { mixer, mlp, .. } = &spec.layers[0];
    let rope = mixer.rope().expect("every known architecture rotates");
    let [heads, kv_heads, head_dim] = mixer.heads();
    let key = |key: &str| format!("{}.{key}", architecture.name());
    let size = |size: usize| Value::U32(size as u32);
    let mut pairs = vec![
        (key("block_count"), size(spec.layers.len())),
        (key("context_length"), size(spec.context)),
        (key("embedding_length"), size(spec.width)),
        (key("feed_forward_length"), size(mlp.inner())),
        (key("attention.head_count"), size(heads)),
        (key("attention.head_count_kv"), size(kv_heads)),
        (key("attention.key_length"), size(head_dim)),
        (key("attention.value_length"), size(head_dim)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(spec.norm_epsilon as f32)),
        (key("rope.dimension_count"), size(head_dim)),
        (key("rope.freq_base"), Value::F32(rope.theta as f32)),
        (key("vocab_size"), size(spec.vocabulary)),
    ];
    match rope.scaling {
        RopeScaling::Default | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            pairs.push((key("rope.scaling.type"), Value::Text("linear".to_owned())));
            pairs.push((key("rope.scaling.factor"), Value::F32(factor as f32)));
        }
        _ => return Err(Error::NotKnown { what: "a RoPE that is `dynamic`, `yarn` or `longrope`".to_owned() }),
    }
    Ok(pairs)
}

/// What each frequency is divided by where that differs from one to the next (Llama 3.1): the tensor `rope_freqs.weight`.
pub(super) fn frequency_divisors(rope: &RopeSpec) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, trained_length } = &rope.scaling else {
        return None;
    };
    let divisor = |pair: usize| {
        let wavelength = std::f64::consts::TAU * rope.theta.powf((2 * pair) as f64 / rope.head_dim as f64);
        let turns = *trained_length as f64 / wavelength;
        let smooth = ((turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    Some((0..rope.head_dim / 2).map(divisor).collect())
}

/// What llama.cpp computes otherwise, in words.
pub(super) fn differences(spec: &DecoderSpec) -> Option<String> {
    let window = spec.layers.iter().find_map(|layer| match layer.mixer.span() {
        Span::Sliding { window } => Some(window),
        Span::Full => None,
    })?;
    Some(format!(
        "llama.cpp has no sliding window for this model: beyond {window} tokens its answers differ from those of the base"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_ggufs_names() {
        assert_eq!(module_name("model.layers.12.mlp.down_proj").as_deref(), Some("blk.12.ffn_down"));
        assert_eq!(module_name("model.embed_tokens").as_deref(), Some("token_embd"));
        assert_eq!(module_name("model.layers.0.self_attn.rotary_emb"), None);
    }

    #[test]
    fn halves_become_neighbours() {
        assert_eq!(neighbours(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], 2), [0.0, 0.5, 2.0, 2.5, 1.0, 1.5, 3.0, 3.5]);
        assert_eq!(neighbours(&[0.0, 1.0, 2.0, 3.0], 1), [0.0, 2.0, 1.0, 3.0], "a bias");
    }
}
