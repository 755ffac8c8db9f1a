//! GGUF's names of tensors.

use crate::model::{DecoderSpec, ExpertForm, ExpertsSpec, NormPlacement};

/// Hugging Face's names of a layer's modules, and GGUF's.
const LAYER: [(&str, &str); 12] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
/// The norms before attention and feed-forward. One of them is named after the block that it
/// follows.
const PRE: [(&str, &str); 2] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];
/// The norms if attention's output has one too.
const POST: [(&str, &str); 3] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
];
/// The stacked gate, up and down of all experts; the router has its own name.
const EXPERTS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
pub(super) const ROUTER: &str = "ffn_gate_inp";

/// The place of a module in a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GgufModule {
    /// The module's GGUF name, such as `blk.0.attn_q`.
    pub module: String,
    /// Its index in the stack, if it belongs to an expert.
    pub expert: Option<usize>,
}

/// Returns GGUF's name of a module, such as `blk.0.attn_q` for `model.layers.0.self_attn.q_proj`.
pub(super) fn place(module: &str, spec: &DecoderSpec) -> Option<GgufModule> {
    let whole = |module: &str| {
        Some(GgufModule {
            module: module.to_owned(),
            expert: None,
        })
    };
    let names = &spec.names;
    if names.embedding().strip_suffix(".weight") == Some(module) {
        return whole("token_embd");
    }
    if names.final_norm() == module {
        return whole("output_norm");
    }
    if module == "lm_head" {
        return whole("output");
    }
    let (layer, rest) = module
        .strip_prefix(names.stem)?
        .strip_prefix(names.layers)?
        .strip_prefix('.')?
        .split_once('.')?;
    let spec = spec.layers.get(layer.parse::<usize>().ok()?)?;
    let found = |table: &[(&str, &'static str)]| {
        table
            .iter()
            .find(|(hf, _)| *hf == rest)
            .map(|(_, gguf)| (*gguf, None))
    };
    let norm = || {
        if spec.norms == NormPlacement::Pre {
            found(&PRE)
        } else {
            found(&POST)
        }
    };
    let expert = || {
        spec.mlp
            .experts()
            .and_then(|experts| of_experts(rest, experts))
    };
    let (gguf, expert) = found(&LAYER).or_else(norm).or_else(expert)?;
    Some(GgufModule {
        module: format!("blk.{layer}.{gguf}"),
        expert,
    })
}

/// Returns the name of the router, or of one expert's part.
fn of_experts(rest: &str, experts: &ExpertsSpec) -> Option<(&'static str, Option<usize>)> {
    let ExpertForm::Apart { module, parts } = experts.form else {
        return None;
    };
    let inside = rest.strip_prefix(module)?;
    if inside == ".gate" {
        return Some((ROUTER, None));
    }
    let (expert, part) = inside.strip_prefix(".experts.")?.split_once('.')?;
    let index = parts.iter().position(|known| *known == part)?;
    Some((EXPERTS[index], Some(expert.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GatedSpec, GroupedSpec, LayerSpec};
    use crate::nn::experts::{RouterScore, RouterSpec};
    use crate::nn::rope::{RopeScaling, RopeSpec};

    fn spec(norms: NormPlacement) -> DecoderSpec {
        let mixer = GroupedSpec::new(
            [2, 1, 4],
            RopeSpec {
                head_dim: 4,
                theta: 1e4,
                scaling: RopeScaling::Default,
            },
        );
        let router = RouterSpec {
            experts: 2,
            chosen: 1,
            score: RouterScore::Softmax,
            groups: None,
            normalizes: true,
            scale: 1.0,
            bias: false,
        };
        let form = ExpertForm::Apart {
            module: "moe",
            parts: ["w1", "w3", "w2"],
        };
        let experts = ExpertsSpec {
            router,
            expert: GatedSpec::new(8),
            form,
            shared: None,
        };
        let layers = vec![
            LayerSpec::new(mixer.clone(), GatedSpec::new(8)),
            LayerSpec::new(mixer, experts),
        ];
        DecoderSpec::new(
            16,
            8,
            layers
                .into_iter()
                .map(|layer| LayerSpec { norms, ..layer })
                .collect(),
        )
    }

    fn name(module: &str, norms: NormPlacement) -> Option<(String, Option<usize>)> {
        place(module, &spec(norms)).map(|place| (place.module, place.expert))
    }

    #[test]
    fn modules_have_ggufs_names() {
        for (module, gguf, expert) in [
            ("model.embed_tokens", "token_embd", None),
            ("model.norm", "output_norm", None),
            ("lm_head", "output", None),
            ("model.layers.0.mlp.down_proj", "blk.0.ffn_down", None),
            ("model.layers.1.moe.gate", "blk.1.ffn_gate_inp", None),
            (
                "model.layers.1.moe.experts.1.w2",
                "blk.1.ffn_down_exps",
                Some(1),
            ),
            (
                "model.layers.1.moe.experts.0.w3",
                "blk.1.ffn_up_exps",
                Some(0),
            ),
        ] {
            assert_eq!(
                name(module, NormPlacement::Pre),
                Some((gguf.to_owned(), expert)),
                "{module}"
            );
        }
        for module in [
            "model.layers.0.self_attn.rotary_emb",
            "model.layers.0.moe.gate",
            "model.layers.2.mlp.up_proj",
        ] {
            assert_eq!(name(module, NormPlacement::Pre), None, "{module}");
        }
    }

    #[test]
    fn a_norm_is_called_by_its_place() {
        let norm = "model.layers.1.post_attention_layernorm";
        assert_eq!(
            name(norm, NormPlacement::Pre),
            Some(("blk.1.ffn_norm".to_owned(), None))
        );
        for norms in [NormPlacement::Post, NormPlacement::PreAndPost] {
            assert_eq!(
                name(norm, norms),
                Some(("blk.1.post_attention_norm".to_owned(), None))
            );
        }
    }
}
