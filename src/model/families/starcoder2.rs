//! `StarCoder` 2: layer norms, biases, and a feed-forward of GELU without a gate.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, Names, NormKind, PlainSpec, Span,
    decoder, heads, plain_activation, rope,
};

const NAMES: Names = Names {
    plain_mlp: ["mlp.c_fc", "mlp.c_proj"],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let bias = config.flag("use_bias", true)?;
    let span = config
        .size_or_none("sliding_window")?
        .map_or(Span::Full, |window| Span::Sliding { window });
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        span,
        ..GroupedSpec::new(shape, rope::spec(config, shape[2])?)
    };
    let mlp = PlainSpec {
        inner: config.size("intermediate_size")?,
        bias,
        activation: plain_activation(config, "hidden_act")?,
    };
    Ok(DecoderSpec {
        names: NAMES,
        norm: NormKind::Layer,
        ..decoder(config, |_| Ok(LayerSpec::new(mixer.clone(), mlp.clone())))?
    })
}
