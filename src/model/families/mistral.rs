//! Mistral 7B and related models: Llama with a sliding window in every layer where `sliding_window`
//! is set; Ministral lists the layers that have it.

use super::span::span;
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, ModelError, decoder, heads, kind_of_layer, plain, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    windowed(config, |_| Ok(None))
}

pub(super) fn by_layer(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    windowed(config, |index| kind_of_layer(config, index))
}

/// Reads the layers. `slides` tells whether a layer has the window; `None`: all do, if there is a
/// window.
fn windowed(
    config: &ConfigJson,
    slides: impl Fn(usize) -> Result<Option<bool>, ModelError>,
) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let mixer = GroupedSpec::new(shape, rope::spec(config, shape[2])?);
    let window = config.size_or_none("sliding_window")?;
    decoder(config, |index| {
        let span = span(
            config,
            index,
            slides(index)?.unwrap_or(window.is_some()),
            window,
        )?;
        plain(
            config,
            GroupedSpec {
                span,
                ..mixer.clone()
            },
        )
    })
}
