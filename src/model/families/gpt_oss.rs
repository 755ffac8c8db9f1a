//! gpt-oss: sinks in attention, a window in every other layer, and stacked experts with clamped
//! gates.

use super::span::span;
use super::{
    ConfigJson, DecoderSpec, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LayerSpec,
    ModelError, RouterScore, RouterSpec, decoder, experts, heads, kind_of_layer, only_silu, rope,
    router_aux,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::of_gpt_oss(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        sinks: true,
        ..GroupedSpec::new(shape, rope)
    };
    only_silu(config)?;
    let router = RouterSpec {
        experts: experts(
            config,
            ["num_experts", "num_local_experts"],
            "num_local_experts",
        )?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::SoftmaxOfChosen,
        groups: None,
        normalizes: false,
        scale: 1.0,
        bias: true,
    };
    let form = ExpertForm::Stacked {
        alpha: config.number("swiglu_alpha")?,
        limit: config.number("swiglu_limit")?,
    };
    let expert = GatedSpec {
        bias: true,
        ..GatedSpec::new(config.size("intermediate_size")?)
    };
    let experts = ExpertsSpec {
        router,
        expert,
        form,
        shared: None,
    };
    let window = config.size_or_none("sliding_window")?;
    let layer = |index: usize| {
        let slides = kind_of_layer(config, index)?.unwrap_or(index.is_multiple_of(2));
        let span = span(config, index, slides, window)?;
        Ok(LayerSpec::new(
            GroupedSpec {
                span,
                ..mixer.clone()
            },
            experts.clone(),
        ))
    };
    router_aux(config, decoder(config, layer)?)
}
