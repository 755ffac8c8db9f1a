//! GGUF's names of tensors.

use super::architecture::Architecture;
use super::carried::Carried;
use crate::model::{
    DecoderSpec, EXPERT_STACKS, ExpertForm, ExpertsSpec, Modules, Names, NormPlacement,
};

/// GGUF's names of gate and up.
const GATE_UP: [&str; 2] = ["ffn_gate", "ffn_up"];
/// The parts of the expert that every token passes.
const SHARED: [(&str, &str); 3] = [
    ("gate_proj", "ffn_gate_shexp"),
    ("up_proj", "ffn_up_shexp"),
    ("down_proj", "ffn_down_shexp"),
];
/// The stacked gate, up and down of all experts; the router has its own name.
const EXPERTS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
pub(crate) const ROUTER: &str = "ffn_gate_inp";

/// The place of a module in a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GgufModule {
    /// The module's GGUF name, such as `blk.0.attn_q`.
    pub module: String,
    /// Its index in the stack, if it belongs to an expert.
    pub expert: Option<usize>,
    /// The half of the rows that it is, if the module is divided.
    pub half: Option<usize>,
}

/// Returns GGUF's names of a module, such as `blk.0.attn_q` for `model.layers.0.self_attn.q_proj`:
/// one, or two where gate and up are divided.
pub(crate) fn places(
    module: &str,
    architecture: &Architecture,
    spec: &DecoderSpec,
) -> Option<Vec<GgufModule>> {
    let whole = |module: &str| {
        vec![GgufModule {
            module: module.to_owned(),
            expert: None,
            half: None,
        }]
    };
    let names = &spec.names;
    if names.embedding().strip_suffix(".weight") == Some(module) {
        return Some(whole("token_embd"));
    }
    if spec.final_norm() == module {
        // llama.cpp's own word for the norm behind the last layer, with convolutions.
        return Some(whole(match architecture.carried {
            Carried::Convolution => "token_embd_norm",
            _ => "output_norm",
        }));
    }
    if module == names.head {
        return Some(whole("output"));
    }
    if names.per_layer_embedding().strip_suffix(".weight") == Some(module) {
        return Some(whole("per_layer_token_embd"));
    }
    if names.per_layer_projection() == module {
        return Some(whole("per_layer_model_proj"));
    }
    if names.per_layer_norm() == module {
        return Some(whole("per_layer_proj_norm"));
    }
    let (layer, rest) = module
        .strip_prefix(names.stem)?
        .strip_prefix(names.layers)?
        .strip_prefix('.')?
        .split_once('.')?;
    let of_layer = spec.layers.get(layer.parse::<usize>().ok()?)?;
    if rest == names.fused_gate_up && architecture.gate_up == Modules::Separate {
        let half = |(half, gguf): (usize, &str)| GgufModule {
            module: format!("blk.{layer}.{gguf}"),
            expert: None,
            half: Some(half),
        };
        return Some(GATE_UP.into_iter().enumerate().map(half).collect());
    }
    if let Some(places) = of_layer
        .mlp
        .experts()
        .and_then(|experts| of_stacks(rest, experts))
    {
        let in_layer = |place: GgufModule| GgufModule {
            module: format!("blk.{layer}.{}", place.module),
            ..place
        };
        return Some(places.into_iter().map(in_layer).collect());
    }
    let carried = || {
        let inside = rest
            .strip_prefix(of_layer.mixer.carrying_module()?)?
            .strip_prefix('.')?;
        let mut known = architecture.carried.projections().iter();
        let (_, gguf) = known.find(|(name, _)| *name == inside)?;
        Some((*gguf, None))
    };
    let norm = || {
        let of_norms = names.of_norms(of_layer.norms);
        let index = of_norms.iter().position(|name| *name == Some(rest))?;
        Some((name_of_norm(index, of_layer.norms, architecture), None))
    };
    let expert = || {
        let experts = of_layer.mlp.experts()?;
        of_shared(rest, experts).or_else(|| of_experts(rest, experts))
    };
    let (gguf, expert) = of_names(rest, names)
        .map(|gguf| (gguf, None))
        .or_else(carried)
        .or_else(norm)
        .or_else(expert)?;
    Some(vec![GgufModule {
        module: format!("blk.{layer}.{gguf}"),
        expert,
        half: None,
    }])
}

/// Returns the name of a module of attention or of a dense feed-forward.
fn of_names(rest: &str, names: &Names) -> Option<&'static str> {
    let inside = |name: &str| format!("{}.{name}", names.attention);
    let [query_norm, key_norm] = names.query_key_norms;
    let of_attention = [
        ("q_proj", "attn_q"),
        ("k_proj", "attn_k"),
        ("v_proj", "attn_v"),
        (names.fused_qkv, "attn_qkv"),
        (names.attention_output, "attn_output"),
        (query_norm, "attn_q_norm"),
        (key_norm, "attn_k_norm"),
    ];
    let [up, down] = names.plain_mlp;
    let [gate, up_of_gate] = names.gate_up;
    let of_mlp = [
        ("per_layer_input_gate", "inp_gate"),
        ("per_layer_projection", "proj"),
        ("post_per_layer_input_norm", "post_norm"),
        (gate, "ffn_gate"),
        (up_of_gate, "ffn_up"),
        (names.fused_gate_up, "ffn_up"),
        (names.mlp_output, "ffn_down"),
        (up, "ffn_up"),
        (down, "ffn_down"),
    ];
    of_attention
        .into_iter()
        .find(|(name, _)| inside(name) == rest)
        .or_else(|| of_mlp.into_iter().find(|(name, _)| *name == rest))
        .map(|(_, gguf)| gguf)
}

/// Returns the name of a norm of the stream by its index among those of a layer. Before the
/// feed-forward it is the second one where outputs have none.
fn name_of_norm(index: usize, norms: NormPlacement, architecture: &Architecture) -> &'static str {
    match (index, norms) {
        (0, _) => "attn_norm",
        (1, _) => "post_attention_norm",
        (2, NormPlacement::PreAndPost) => "ffn_norm",
        (2, _) => architecture.second_norm,
        _ => "post_ffw_norm",
    }
}

/// Returns the name of a part of the shared expert, or of its weight.
fn of_shared(rest: &str, experts: &ExpertsSpec) -> Option<(&'static str, Option<usize>)> {
    let shared = experts.shared?;
    if shared.gate == Some(rest) {
        return Some(("ffn_gate_inp_shexp", None));
    }
    let part = rest.strip_prefix(shared.module)?.strip_prefix('.')?;
    let (_, gguf) = SHARED.into_iter().find(|(known, _)| *known == part)?;
    Some((gguf, None))
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

/// Returns the places of a stack of all experts' maps, or of one expert's map in it, where gate and
/// up are one; and that of their router.
fn of_stacks(rest: &str, experts: &ExpertsSpec) -> Option<Vec<GgufModule>> {
    let ExpertForm::Rows(names) = experts.form else {
        return None;
    };
    let place = |index: usize, expert: Option<usize>, half: Option<usize>| GgufModule {
        module: EXPERTS[index].to_owned(),
        expert,
        half,
    };
    if rest == names.router {
        return Some(vec![GgufModule {
            module: ROUTER.to_owned(),
            ..place(0, None, None)
        }]);
    }
    let stack = names
        .tensors
        .iter()
        .position(|tensor| tensor.strip_suffix(".weight") == Some(rest));
    let of_expert = || {
        let (part, expert) = rest
            .strip_prefix(names.module)?
            .strip_prefix('.')?
            .rsplit_once('.')?;
        let index = EXPERT_STACKS.into_iter().position(|known| known == part)?;
        Some((index, Some(expert.parse().ok()?)))
    };
    let (index, expert) = stack.map(|index| (index, None)).or_else(of_expert)?;
    Some(match index {
        0 => vec![place(0, expert, Some(0)), place(1, expert, Some(1))],
        _ => vec![place(2, expert, None)],
    })
}

#[cfg(test)]
mod tests {
    use super::super::architecture::LLAMA;
    use super::*;
    use crate::model::{GatedSpec, GroupedSpec, LayerSpec, StackNames};
    use crate::nn::experts::{RouterScore, RouterSpec};
    use crate::nn::rope::{RopeScaling, RopeSpec};

    fn spec(norms: NormPlacement) -> DecoderSpec {
        let mixer = GroupedSpec::new([2, 1, 4], RopeSpec::new(4, 1e4, RopeScaling::Default));
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
        let [place] = &places(module, &LLAMA, &spec(norms))?[..] else {
            panic!("{module} is divided")
        };
        Some((place.module.clone(), place.expert))
    }

    #[test]
    fn gate_and_up_of_one_module_are_halves_where_the_architecture_divides_them() {
        let spec = spec(NormPlacement::Pre);
        let places = |architecture| {
            places("model.layers.0.mlp.gate_up_proj", architecture, &spec)
                .expect("a name")
                .into_iter()
                .map(|place| (place.module, place.half))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            places(&LLAMA),
            [
                ("blk.0.ffn_gate".to_owned(), Some(0)),
                ("blk.0.ffn_up".to_owned(), Some(1))
            ]
        );
        let fused = Architecture {
            gate_up: Modules::Fused,
            ..LLAMA
        };
        assert_eq!(places(&fused), [("blk.0.ffn_up".to_owned(), None)]);
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
    fn stacks_of_gate_and_up_are_halves_of_two_stacks() {
        let mut spec = spec(NormPlacement::Pre);
        let experts = spec.layers[1].mlp.experts_mut().expect("there are some");
        experts.form = ExpertForm::Rows(StackNames {
            module: "moe.experts",
            tensors: ["moe.input_linear.weight", "moe.output_linear.weight"],
            router: "moe.router.layer",
        });
        let found = |rest: &str| {
            let places = places(&format!("model.layers.1.{rest}"), &LLAMA, &spec);
            let places = places.expect("a name").into_iter();
            places
                .map(|place| (place.module, place.expert, place.half))
                .collect::<Vec<_>>()
        };
        let [gate, up, down, router] =
            ["gate_exps", "up_exps", "down_exps", "gate_inp"].map(|of| format!("blk.1.ffn_{of}"));
        assert_eq!(
            found("moe.input_linear"),
            [(gate.clone(), None, Some(0)), (up.clone(), None, Some(1))]
        );
        assert_eq!(
            found("moe.experts.gate_up_proj.1"),
            [(gate, Some(1), Some(0)), (up, Some(1), Some(1))]
        );
        assert_eq!(found("moe.output_linear"), [(down.clone(), None, None)]);
        assert_eq!(found("moe.experts.down_proj.0"), [(down, Some(0), None)]);
        assert_eq!(found("moe.router.layer"), [(router, None, None)]);
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
