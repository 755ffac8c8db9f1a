//! `OLMo` 2: norms only of each layer's outputs, and of all query and key heads together.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormPlacement, QueryKeyNorm,
    decoder, heads, plain, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: QueryKeyNorm::Whole,
        ..GroupedSpec::new(shape, rope)
    };
    decoder(config, |_| {
        Ok(LayerSpec {
            norms: NormPlacement::Post,
            ..plain(config, mixer.clone())?
        })
    })
}
