//! Qwen 1.5 and 2 with experts, beside a shared one that is weighted by a sigmoid; a window, where
//! it is used, in every other layer of the lower ones.

use super::qwen3_moe::{FORM, sparse};
use super::span::{span, window_if_used};
use super::{
    ConfigJson, DecoderSpec, ExpertsSpec, GatedSpec, GroupedSpec, ModelError, RouterScore,
    RouterSpec, SharedExpertSpec, decoder, heads, kind_of_layer, rope, router_aux,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let mixer = GroupedSpec {
        qkv_bias: config.flag("qkv_bias", true)?,
        ..GroupedSpec::new(shape, rope::spec(config, shape[2])?)
    };
    let router = RouterSpec {
        experts: config.size("num_experts")?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Softmax,
        groups: None,
        normalizes: config.flag("norm_topk_prob", false)?,
        scale: 1.0,
        bias: false,
    };
    let shared = SharedExpertSpec {
        module: "mlp.shared_expert",
        inner: config.size("shared_expert_intermediate_size")?,
        gate: Some("mlp.shared_expert_gate"),
    };
    let experts = ExpertsSpec {
        router,
        expert: GatedSpec::new(config.size("moe_intermediate_size")?),
        form: FORM,
        shared: Some(shared),
    };
    let (window, lower) = (
        window_if_used(config)?,
        config.count_or("max_window_layers", 0)?,
    );
    let layer = |index: usize| {
        let slides = match kind_of_layer(config, index)? {
            Some(true) if window.is_none() => {
                return Err(config.fault(format!(
                    "`layer_types` of layer {index} is `sliding_attention` and \
                    `use_sliding_window` is `false`, expected `full_attention`"
                )));
            }
            Some(slides) => slides,
            None => window.is_some() && index.is_multiple_of(2) && index < lower,
        };
        let mixer = GroupedSpec {
            span: span(config, index, slides, window)?,
            ..mixer.clone()
        };
        sparse(config, index, mixer, &experts)
    };
    router_aux(config, decoder(config, layer)?)
}
