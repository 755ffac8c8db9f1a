//! Hunyuan dense: every query and key head is normalized after the rotation.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, ModelError, Names, QueryKeyNorm, decoder, heads, plain,
    rope,
};

const NAMES: Names = Names {
    query_key_norms: ["query_layernorm", "key_layernorm"],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    // transformers cannot compute without it.
    config.size("head_dim")?;
    let shape = heads(config)?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: QueryKeyNorm::HeadsAfterRotation,
        ..GroupedSpec::new(shape, rope::of_hunyuan(config, shape[2])?)
    };
    Ok(DecoderSpec {
        names: NAMES,
        ..decoder(config, |_| plain(config, mixer.clone()))?
    })
}
