//! Qwen 3: every query and key head is normalized before the rotation.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, ModelError, QueryKeyNorm, decoder, heads, plain, rope,
    span_by_layer,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: QueryKeyNorm::Heads,
        ..GroupedSpec::new(shape, rope)
    };
    decoder(config, |index| {
        plain(
            config,
            GroupedSpec {
                span: span_by_layer(config, index)?,
                ..mixer.clone()
            },
        )
    })
}
