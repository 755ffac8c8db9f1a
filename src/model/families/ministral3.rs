//! Ministral 3: Mistral with a context stretched by YaRN, whose queries grow with their position.

use super::{ConfigJson, DecoderSpec, GroupedSpec, ModelError, Span, decoder, heads, plain, rope};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let span = config
        .size_or_none("sliding_window")?
        .map_or(Span::Full, |window| Span::Sliding { window });
    let mixer = GroupedSpec {
        span,
        ..GroupedSpec::new(shape, rope::of_ministral3(config, shape[2])?)
    };
    decoder(config, |_| plain(config, mixer.clone()))
}
