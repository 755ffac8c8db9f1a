//! gpt-oss: sinks in attention, a window in every other layer, and stacked experts with clamped gates.

use super::{
    Config, DecoderSpec, Error, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LayerSpec, RouterScore, RouterSpec, decoder,
    heads, kind_of_layer, rope, router_aux,
};
use crate::nn::attention::Span;

const CONTEXT: usize = 131_072;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(8), Some(64))?;
    let rope = rope::with_theta(config, shape[2], CONTEXT, 150_000.0)?;
    let bias = config.flag("attention_bias", true)?;
    let mixer = GroupedSpec { qkv_bias: bias, output_bias: bias, sinks: true, ..GroupedSpec::new(shape, rope) };
    config.only("hidden_act", &["silu"])?;
    let router = RouterSpec {
        experts: config.size_or("num_local_experts", 128)?,
        chosen: config.size_or("num_experts_per_tok", 4)?,
        score: RouterScore::SoftmaxOfChosen,
        groups: None,
        normalises: false,
        scale: 1.0,
        bias: true,
    };
    let number = |key: &str, default: f64| Ok::<_, Error>(config.number_or_none(key)?.unwrap_or(default));
    let form = ExpertForm::Stacked { alpha: number("swiglu_alpha", 1.702)?, limit: number("swiglu_limit", 7.0)? };
    let expert = GatedSpec { bias: true, ..GatedSpec::new(config.size("intermediate_size")?) };
    let experts = ExpertsSpec { router, expert, form, shared: None };
    let window = config.size_or("sliding_window", 128)?;
    let layer = |index: usize| {
        let slides = kind_of_layer(config, index)?.unwrap_or(index.is_multiple_of(2));
        let span = if slides { Span::Sliding { window } } else { Span::Full };
        Ok(LayerSpec::new(GroupedSpec { span, ..mixer.clone() }, experts.clone()))
    };
    let spec = decoder(config, CONTEXT, layer)?;
    Ok(DecoderSpec { norm_epsilon: number("rms_norm_eps", 1e-5)?, ..router_aux(config, spec)? })
}
