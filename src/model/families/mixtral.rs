//! Mixtral: routed experts in every layer, weighted by a softmax over the chosen ones.

use super::{
    ConfigJson, DecoderSpec, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LayerSpec,
    ModelError, RouterScore, RouterSpec, Span, decoder, experts, heads, only_silu, rope,
    router_aux,
};

const FORM: ExpertForm = ExpertForm::Apart {
    module: "block_sparse_moe",
    parts: ["w1", "w3", "w2"],
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let span = config
        .size_or_none("sliding_window")?
        .map_or(Span::Full, |window| Span::Sliding { window });
    only_silu(config)?;
    let router = RouterSpec {
        experts: experts(
            config,
            ["num_experts", "num_local_experts"],
            "num_local_experts",
        )?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Softmax,
        groups: None,
        normalizes: true,
        scale: 1.0,
        bias: false,
    };
    let experts = ExpertsSpec {
        router,
        expert: GatedSpec::new(config.size("intermediate_size")?),
        form: FORM,
        shared: None,
    };
    let mixer = GroupedSpec {
        span,
        ..GroupedSpec::new(shape, rope)
    };
    router_aux(
        config,
        decoder(config, |_| {
            Ok(LayerSpec::new(mixer.clone(), experts.clone()))
        })?,
    )
}
