//! Qwen 3 with experts in all layers, in every so many, or in all but some.

use super::{
    Config, DecoderSpec, Error, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LayerSpec, QueryKeyNorm, RouterScore,
    RouterSpec, decoder, heads, plain, rope, router_aux, span_by_layer,
};

const CONTEXT: usize = 32_768;
pub(super) const FORM: ExpertForm = ExpertForm::Apart { module: "mlp", parts: ["gate_proj", "up_proj", "down_proj"] };

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(4), None)?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec { qkv_bias: bias, output_bias: bias, qk_norm: QueryKeyNorm::Heads, ..GroupedSpec::new(shape, rope) };
    // transformers 5 writes the number of experts under another name.
    let experts = config.size_or_none("num_experts")?.or(config.size_or_none("num_local_experts")?);
    let router = RouterSpec {
        experts: experts.unwrap_or(128),
        chosen: config.size_or("num_experts_per_tok", 8)?,
        score: RouterScore::Softmax,
        groups: None,
        normalises: config.flag("norm_topk_prob", false)?,
        scale: 1.0,
        bias: false,
    };
    let expert = GatedSpec::new(config.size_or("moe_intermediate_size", 768)?);
    let experts = ExpertsSpec { router, expert, form: FORM, shared: None };
    let (step, dense) = (config.size_or("decoder_sparse_step", 1)?, config.layers("mlp_only_layers")?);
    let layer = |index: usize| {
        let mixer = GroupedSpec { span: span_by_layer(config, index)?, ..mixer.clone() };
        if dense.contains(&index) || !(index + 1).is_multiple_of(step) {
            return plain(config, mixer);
        }
        config.only("hidden_act", &["silu"])?;
        Ok(LayerSpec::new(mixer, experts.clone()))
    };
    router_aux(config, decoder(config, CONTEXT, layer)?)
}
