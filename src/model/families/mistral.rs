//! Mistral 7B and its kin: Llama with a sliding window in every layer where `sliding_window` is set.

use super::{Config, DecoderSpec, Error, GroupedSpec, Span, decoder, heads, rope};

const CONTEXT: usize = 131_072;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(8), None)?;
    let rope = rope::spec(config, shape.head_dim, CONTEXT)?;
    // Where the key is absent transformers takes 4096; null means no window.
    let absent = if config.has("sliding_window") { None } else { Some(4096) };
    let window = config.size_or_none("sliding_window")?.or(absent);
    decoder(config, CONTEXT, |_| {
        Ok(GroupedSpec {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            rope: rope.clone(),
            span: window.map_or(Span::Full, |window| Span::Sliding { window }),
        })
    })
}
