//! Qwen 2 and 2.5: biases on q, k and v.

use super::{Config, DecoderSpec, Error, GroupedSpec, decoder, heads, rope, span_by_layer};

const CONTEXT: usize = 32_768;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(32), None)?;
    let rope = rope::spec(config, shape.head_dim, CONTEXT)?;
    decoder(config, CONTEXT, |index| {
        Ok(GroupedSpec {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            qkv_bias: true,
            output_bias: false,
            qk_norm: false,
            rope: rope.clone(),
            span: span_by_layer(config, index)?,
        })
    })
}
