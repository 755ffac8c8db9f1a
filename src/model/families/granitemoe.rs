//! Granite with experts in every layer, weighted by a softmax over the chosen ones; those of a
//! layer are stacked.

use super::granite::{attention, scaled};
use super::{
    ConfigJson, DecoderSpec, ExpertForm, ExpertsSpec, GatedSpec, LayerSpec, ModelError,
    RouterScore, RouterSpec, StackNames, decoder, only_silu, router_aux,
};

const FORM: ExpertForm = ExpertForm::Rows(StackNames {
    module: "block_sparse_moe.experts",
    tensors: [
        "block_sparse_moe.input_linear.weight",
        "block_sparse_moe.output_linear.weight",
    ],
    router: "block_sparse_moe.router.layer",
});

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    only_silu(config)?;
    let mixer = attention(config)?;
    let router = RouterSpec {
        experts: config.size("num_local_experts")?,
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
    let layer = LayerSpec::new(mixer, experts);
    let decoder = scaled(config, decoder(config, |_| Ok(layer.clone()))?)?;
    router_aux(config, decoder)
}
