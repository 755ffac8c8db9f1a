//! Nemotron and Minitron: layer norms with 1 + w, a feed-forward of squared `ReLU`, and a rotation
//! of a part of each head.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormKind, PlainSpec, decoder,
    heads, plain_activation, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        ..GroupedSpec::new(shape, rope::of_part(config, shape[2], 0.5)?)
    };
    let mlp = PlainSpec {
        inner: config.size("intermediate_size")?,
        bias: config.flag("mlp_bias", false)?,
        activation: plain_activation(config, "hidden_act")?,
    };
    Ok(DecoderSpec {
        norm: NormKind::Layer,
        norm_offset: 1.0,
        ..decoder(config, |_| Ok(LayerSpec::new(mixer.clone(), mlp.clone())))?
    })
}
