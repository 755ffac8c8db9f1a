//! Llama 2, 3 and 3.1 to 3.3, and what uses their architecture (SmolLM2, TinyLlama, Yi, ..).

use super::{ConfigJson, DecoderSpec, GroupedSpec, ModelError, decoder, heads, plain, rope};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        ..GroupedSpec::new(shape, rope)
    };
    decoder(config, |_| plain(config, mixer.clone()))
}
