//! Qwen 3.5 with experts in every layer, beside a shared one that is weighted by a sigmoid.

use super::qwen3_5::stream;
use super::qwen3_moe::FORM;
use super::{
    ConfigJson, DecoderSpec, ExpertsSpec, GatedSpec, LayerSpec, ModelError, RouterScore,
    RouterSpec, SharedExpertSpec, only_silu, router_aux,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let router = RouterSpec {
        experts: config.size("num_experts")?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Softmax,
        groups: None,
        normalizes: true,
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
    only_silu(config)?;
    let layer = |mixer| Ok(LayerSpec::new(mixer, experts.clone()));
    router_aux(config, stream(config, layer)?)
}
