//! GLM-4 (0414): norms of each layer's inputs and outputs, a rotation of neighbors in half of a
//! head, and one module for gate and up.

use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, ModelError, Modules, Names,
    NormPlacement, decoder, heads, only_silu, rope,
};

const NAMES: Names = Names {
    norms: Some([
        "input_layernorm",
        "post_self_attn_layernorm",
        "post_attention_layernorm",
        "post_mlp_layernorm",
    ]),
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::of_neighbors(rope::of_part(config, shape[2], 0.5)?);
    let mixer = GroupedSpec {
        qkv_bias: config.flag("attention_bias", true)?,
        ..GroupedSpec::new(shape, rope)
    };
    only_silu(config)?;
    let mlp = GatedSpec {
        gate_up: Modules::Fused,
        ..GatedSpec::new(config.size("intermediate_size")?)
    };
    let layer = LayerSpec {
        norms: NormPlacement::PreAndPost,
        ..LayerSpec::new(mixer, mlp)
    };
    Ok(DecoderSpec {
        names: NAMES,
        ..decoder(config, |_| Ok(layer.clone()))?
    })
}
