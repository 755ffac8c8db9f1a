//! Gemma 2: capped scores and logits, a window in every other layer, and norms of what is added too.

use super::gemma::{gate, stream};
use super::{Config, DecoderSpec, Error, GroupedSpec, LayerSpec, NormPlacement, decoder, heads, kind_of_layer, rope};
use crate::nn::attention::Span;

const CONTEXT: usize = 8192;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(4), Some(256))?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    let bias = config.flag("attention_bias", false)?;
    let score_scale = config.number_or_none("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5);
    let softcap = cap(config, "attn_logit_softcapping", 50.0)?;
    let window = config.size_or_none("sliding_window")?.unwrap_or(4096);
    let mixer = GroupedSpec { qkv_bias: bias, output_bias: bias, score_scale, softcap, ..GroupedSpec::new(shape, rope) };
    let layer = |index: usize| {
        let slides = kind_of_layer(config, index)?.unwrap_or(index.is_multiple_of(2));
        let span = if slides { Span::Sliding { window } } else { Span::Full };
        let mixer = GroupedSpec { span, ..mixer.clone() };
        Ok(LayerSpec { norms: NormPlacement::PreAndPost, ..LayerSpec::new(mixer, gate(config)?) })
    };
    let final_softcap = cap(config, "final_logit_softcapping", 30.0)?;
    stream(config, DecoderSpec { final_softcap, ..decoder(config, CONTEXT, layer)? })
}

/// A cap that null switches off.
fn cap(config: &Config, key: &str, default: f64) -> Result<Option<f64>, Error> {
    Ok(if config.has(key) { config.number_or_none(key)? } else { Some(default) })
}
