//! Llama 2, 3 and 3.1 to 3.3, and what uses their architecture (SmolLM2, TinyLlama, Yi, ..).

use super::{Config, DecoderSpec, Error, GroupedSpec, Span, decoder, heads, rope};

const CONTEXT: usize = 2048;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, None, None)?;
    let rope = rope::spec(config, shape.head_dim, CONTEXT)?;
    let bias = config.flag("attention_bias", false)?;
    decoder(config, CONTEXT, |_| {
        Ok(GroupedSpec {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            qkv_bias: bias,
            output_bias: bias,
            qk_norm: false,
            rope: rope.clone(),
            span: Span::Full,
        })
    })
}
