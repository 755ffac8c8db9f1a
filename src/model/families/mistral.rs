//! Mistral 7B and its kin: Llama with a sliding window in every layer where `sliding_window` is set.

use super::{Config, DecoderSpec, Error, GroupedSpec, decoder, heads, plain, rope};
use crate::nn::attention::Span;

const CONTEXT: usize = 131_072;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(8), None)?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    // Where the key is absent transformers takes 4096; null means no window.
    let absent = if config.has("sliding_window") { None } else { Some(4096) };
    let window = config.size_or_none("sliding_window")?.or(absent);
    let span = window.map_or(Span::Full, |window| Span::Sliding { window });
    let mixer = GroupedSpec { span, ..GroupedSpec::new(shape, rope) };
    decoder(config, CONTEXT, |_| plain(config, mixer.clone()))
}
