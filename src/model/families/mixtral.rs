//! Mixtral: a few of some experts in every layer, weighed by a softmax over the chosen ones.

use super::{
    Config, DecoderSpec, Error, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LayerSpec, RouterScore, RouterSpec, decoder,
    heads, rope, router_aux,
};
use crate::nn::attention::Span;

const CONTEXT: usize = 131_072;
const FORM: ExpertForm = ExpertForm::Apart { module: "block_sparse_moe", parts: ["w1", "w3", "w2"] };

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(8), None)?;
    let rope = rope::with_theta(config, shape[2], CONTEXT, 1e6)?;
    let span = config.size_or_none("sliding_window")?.map_or(Span::Full, |window| Span::Sliding { window });
    if let Some(noise) = config.number_or_zero("router_jitter_noise")?.filter(|noise| *noise > 0.0) {
        return Err(config.fault(format!("`router_jitter_noise` is {noise}, known is 0")));
    }
    config.only("hidden_act", &["silu"])?;
    let router = RouterSpec {
        experts: config.size_or("num_local_experts", 8)?,
        chosen: config.size_or("num_experts_per_tok", 2)?,
        score: RouterScore::Softmax,
        groups: None,
        normalises: true,
        scale: 1.0,
        bias: false,
    };
    let experts = ExpertsSpec { router, expert: GatedSpec::new(config.size("intermediate_size")?), form: FORM, shared: None };
    let mixer = GroupedSpec { span, ..GroupedSpec::new(shape, rope) };
    let spec = decoder(config, CONTEXT, |_| Ok(LayerSpec::new(mixer.clone(), experts.clone())))?;
    Ok(DecoderSpec { norm_epsilon: config.number_or_none("rms_norm_eps")?.unwrap_or(1e-5), ..router_aux(config, spec)? })
}
