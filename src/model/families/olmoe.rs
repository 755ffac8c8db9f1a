//! `OLMoE`: experts in every layer, and norms of all query and all key heads together.

use super::qwen3_moe::FORM;
use super::{
    ConfigJson, DecoderSpec, ExpertsSpec, GatedSpec, GroupedSpec, LayerSpec, ModelError,
    QueryKeyNorm, RouterScore, RouterSpec, decoder, experts, heads, only_silu, rope, router_aux,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    if let Some(most) = config.number_or_none("clip_qkv")? {
        return Err(config.fault(format!("`clip_qkv` is {most}, known is null")));
    }
    let shape = heads(config)?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: QueryKeyNorm::Whole,
        ..GroupedSpec::new(shape, rope::spec(config, shape[2])?)
    };
    only_silu(config)?;
    let router = RouterSpec {
        experts: experts(config, ["num_local_experts", "num_experts"], "num_experts")?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Softmax,
        groups: None,
        normalizes: config.flag("norm_topk_prob", false)?,
        scale: 1.0,
        bias: false,
    };
    let experts = ExpertsSpec {
        router,
        expert: GatedSpec::new(config.size("intermediate_size")?),
        form: FORM,
        shared: None,
    };
    let layer = LayerSpec::new(mixer, experts);
    router_aux(config, decoder(config, |_| Ok(layer.clone()))?)
}
