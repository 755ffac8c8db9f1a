//! Qwen 3: every query and key head is normalised before the rotation.

use super::{Config, DecoderSpec, Error, GroupedSpec, decoder, heads, rope, span_by_layer};

const CONTEXT: usize = 32_768;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(32), Some(128))?;
    let rope = rope::spec(config, shape.head_dim, CONTEXT)?;
    let bias = config.flag("attention_bias", false)?;
    decoder(config, CONTEXT, |index| {
        Ok(GroupedSpec {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            qkv_bias: bias,
            output_bias: bias,
            qk_norm: true,
            rope: rope.clone(),
            span: span_by_layer(config, index)?,
        })
    })
}
