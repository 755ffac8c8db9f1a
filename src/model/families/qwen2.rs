//! Qwen 2 and 2.5: biases on q, k and v.

use super::{Config, DecoderSpec, Error, GroupedSpec, decoder, heads, plain, rope, span_by_layer};

const CONTEXT: usize = 32_768;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(32), None)?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    let mixer = GroupedSpec { qkv_bias: true, ..GroupedSpec::new(shape, rope) };
    decoder(config, CONTEXT, |index| plain(config, GroupedSpec { span: span_by_layer(config, index)?, ..mixer.clone() }))
}
