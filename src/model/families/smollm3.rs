//! `SmolLM3`: some layers do not rotate queries and keys.

use super::span::{span, window_if_used};
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, ModelError, decoder, heads, kind_of_layer, plain, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let window = window_if_used(config)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        ..GroupedSpec::new(shape, rope)
    };
    decoder(config, |index| {
        let rotates = rotates(config, index)?;
        let slides = kind_of_layer(config, index)?.unwrap_or(!rotates && window.is_some());
        let span = span(config, index, slides, window)?;
        plain(
            config,
            GroupedSpec {
                rope: mixer.rope.clone().filter(|_| rotates),
                span,
                ..mixer.clone()
            },
        )
    })
}

/// Whether a layer rotates. `no_rope_layers` has 1 for a layer that does; without the list every
/// nth layer does not.
fn rotates(config: &ConfigJson, index: usize) -> Result<bool, ModelError> {
    let Some(listed) = config.get("no_rope_layers") else {
        return Ok(!(index + 1).is_multiple_of(config.size("no_rope_layer_interval")?));
    };
    match listed
        .as_array()
        .and_then(|listed| listed.get(index))
        .and_then(serde_json::Value::as_u64)
    {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(config.fault(format!("`no_rope_layers` has no 0 or 1 for layer {index}"))),
    }
}
