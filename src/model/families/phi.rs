//! Phi-1, 1.5 and 2: parallel attention and feed-forward after one layer norm, biases everywhere,
//! also of the head, and a rotation of a part of each head.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, Names, NormKind, NormPlacement,
    PlainSpec, decoder, heads, plain_activation, rope,
};

const NAMES: Names = Names {
    final_norm: "final_layernorm",
    attention_output: "dense",
    plain_mlp: ["mlp.fc1", "mlp.fc2"],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    if config.flag("qk_layernorm", false)? {
        return Err(config.fault("`qk_layernorm` is `true`, known is `false`"));
    }
    let shape = heads(config)?;
    let mixer = GroupedSpec {
        qkv_bias: true,
        output_bias: true,
        ..GroupedSpec::new(shape, rope::of_even_part(config, shape[2], 0.5)?)
    };
    let mlp = PlainSpec {
        inner: config.size("intermediate_size")?,
        bias: true,
        activation: plain_activation(config, "hidden_act")?,
    };
    let layer = LayerSpec {
        norms: NormPlacement::Parallel,
        ..LayerSpec::new(mixer, mlp)
    };
    Ok(DecoderSpec {
        names: NAMES,
        norm: NormKind::Layer,
        head_bias: true,
        ..decoder(config, |_| Ok(layer.clone()))?
    })
}
