//! Cohere 2 (Command R7B, Command A): parallel attention and feed-forward after one layer norm
//! without a bias, and a window in three of four layers; the others do not rotate.

use super::span::span;
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormKind, NormPlacement, decoder,
    heads, kind_of_layer, plain, rope,
};

/// Period of the layers without a window where the config does not list them.
const PATTERN: usize = 4;

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    config.not_null("head_dim", "a whole number")?;
    let shape = heads(config)?;
    let rope = rope::of_neighbors(rope::spec(config, shape[2])?);
    let bias = config.flag("attention_bias", false)?;
    let window = config.size_or_none("sliding_window")?;
    config.not_null("sliding_window_pattern", "a whole number")?;
    let pattern = config.size_or("sliding_window_pattern", PATTERN)?;
    let spec = decoder(config, |index| {
        let slides = kind_of_layer(config, index)?.unwrap_or(!(index + 1).is_multiple_of(pattern));
        let mixer = GroupedSpec {
            qkv_bias: bias,
            output_bias: bias,
            span: span(config, index, slides, window)?,
            ..GroupedSpec::new(shape, slides.then(|| rope.clone()))
        };
        Ok(LayerSpec {
            norms: NormPlacement::Parallel,
            ..plain(config, mixer)?
        })
    })?;
    Ok(DecoderSpec {
        norm: NormKind::LayerWithoutBias,
        logit_scale: config.number("logit_scale")?,
        ..spec
    })
}
