//! Seed-OSS: Llama with biases of queries, keys and values, and one of the output if the config
//! says so.

use super::{ConfigJson, DecoderSpec, GroupedSpec, ModelError, decoder, heads, plain, rope};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let mixer = GroupedSpec {
        qkv_bias: config.flag("attention_bias", true)?,
        output_bias: config.flag("attention_out_bias", false)?,
        ..GroupedSpec::new(shape, rope::spec(config, shape[2])?)
    };
    decoder(config, |_| plain(config, mixer.clone()))
}
