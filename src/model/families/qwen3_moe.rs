//! Qwen 3 with experts in all layers, in every nth, or in all except some. Its window holds in
//! every layer: unlike in Qwen 3, `max_window_layers` and `layer_types` are ignored.

use super::span::window_if_used;
use super::{
    ConfigJson, DecoderSpec, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LayerSpec,
    ModelError, QueryKeyNorm, RouterScore, RouterSpec, Span, decoder, experts, heads, only_silu,
    plain, rope, router_aux,
};

pub(super) const FORM: ExpertForm = ExpertForm::Apart {
    module: "mlp",
    parts: ["gate_proj", "up_proj", "down_proj"],
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let span = window_if_used(config)?.map_or(Span::Full, |window| Span::Sliding { window });
    let qk_norm = QueryKeyNorm::Heads;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm,
        span,
        ..GroupedSpec::new(shape, rope)
    };
    let router = RouterSpec {
        // transformers 5 writes the number of experts under another name.
        experts: experts(config, ["num_local_experts", "num_experts"], "num_experts")?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Softmax,
        groups: None,
        normalizes: config.flag("norm_topk_prob", false)?,
        scale: 1.0,
        bias: false,
    };
    let expert = GatedSpec::new(config.size("moe_intermediate_size")?);
    let experts = ExpertsSpec {
        router,
        expert,
        form: FORM,
        shared: None,
    };
    let layer = |index: usize| sparse(config, index, mixer.clone(), &experts);
    router_aux(config, decoder(config, layer)?)
}

/// Makes a layer with experts, or a dense one where the config says so.
pub(super) fn sparse(
    config: &ConfigJson,
    index: usize,
    mixer: GroupedSpec,
    experts: &ExpertsSpec,
) -> Result<LayerSpec, ModelError> {
    let (step, dense) = (
        config.size("decoder_sparse_step")?,
        config.layers("mlp_only_layers")?,
    );
    if dense.contains(&index) || !(index + 1).is_multiple_of(step) {
        return plain(config, mixer);
    }
    only_silu(config)?;
    Ok(LayerSpec::new(mixer, experts.clone()))
}
