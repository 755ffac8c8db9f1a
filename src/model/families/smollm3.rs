//! `SmolLM3`: some layers do not rotate queries and keys.

use super::{Config, DecoderSpec, Error, GroupedSpec, decoder, heads, kind_of_layer, padding, plain, rope};
use crate::nn::attention::Span;

const CONTEXT: usize = 32_768;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(4), None)?;
    let rope = rope::with_theta(config, shape[2], CONTEXT, 2e6)?;
    let bias = config.flag("attention_bias", false)?;
    let window = if config.flag("use_sliding_window", false)? { config.size_or_none("sliding_window")? } else { None };
    let mixer = GroupedSpec { qkv_bias: bias, output_bias: bias, ..GroupedSpec::new(shape, rope) };
    let layer = |index: usize| {
        let rotates = rotates(config, index)?;
        let slides = kind_of_layer(config, index)?.unwrap_or(!rotates);
        let span = window.filter(|_| slides).map_or(Span::Full, |window| Span::Sliding { window });
        plain(config, GroupedSpec { rope: mixer.rope.clone().filter(|_| rotates), span, ..mixer.clone() })
    };
    let padding = padding(config, Some(128_004))?;
    Ok(DecoderSpec { tied_head: config.flag("tie_word_embeddings", true)?, padding, ..decoder(config, CONTEXT, layer)? })
}

/// `no_rope_layers` has 1 for a layer that rotates; without it every so many layers one does not.
fn rotates(config: &Config, index: usize) -> Result<bool, Error> {
    let Some(listed) = config.get("no_rope_layers").and_then(serde_json::Value::as_array) else {
        let interval = config.size_or_none("no_rope_layer_interval")?.unwrap_or(4);
        return Ok(!(index + 1).is_multiple_of(interval));
    };
    match listed.get(index).and_then(serde_json::Value::as_u64) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(config.fault(format!("`no_rope_layers` has no 0 or 1 for layer {index}"))),
    }
}
