//! Gemma 3 for text: normalised query and key heads, a window in five of six layers, and a rotation for each kind of layer.

use super::gemma::{gate, stream};
use super::{
    Config, DecoderSpec, Error, GroupedSpec, LayerSpec, NormPlacement, QueryKeyNorm, decoder, heads, kind_of_layer, rope,
};
use crate::nn::attention::Span;

const CONTEXT: usize = 131_072;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    if config.flag("use_bidirectional_attention", false)? {
        return Err(config.fault("`use_bidirectional_attention` is true, known is false"));
    }
    let shape = heads(config, Some(4), Some(256))?;
    let full = rope::of_kind(config, "full_attention", shape[2], CONTEXT, 1e6)?;
    let sliding = rope::of_kind(config, "sliding_attention", shape[2], CONTEXT, 1e4)?;
    let bias = config.flag("attention_bias", false)?;
    let score_scale = config.number_or_none("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5);
    let softcap = config.number_or_none("attn_logit_softcapping")?;
    let window = config.size_or_none("sliding_window")?.unwrap_or(4096);
    let pattern = config.size_or_none("sliding_window_pattern")?.or(config.size_or_none("_sliding_window_pattern")?).unwrap_or(6);
    let layer = |index: usize| {
        let slides = kind_of_layer(config, index)?.unwrap_or(!(index + 1).is_multiple_of(pattern));
        let (rope, span) = if slides { (&sliding, Span::Sliding { window }) } else { (&full, Span::Full) };
        let plain = GroupedSpec::new(shape, rope.clone());
        let qk_norm = QueryKeyNorm::Heads;
        let mixer = GroupedSpec { qkv_bias: bias, output_bias: bias, qk_norm, span, score_scale, softcap, ..plain };
        Ok(LayerSpec { norms: NormPlacement::PreAndPost, ..LayerSpec::new(mixer, gate(config)?) })
    };
    let final_softcap = config.number_or_none("final_logit_softcapping")?;
    stream(config, DecoderSpec { final_softcap, ..decoder(config, CONTEXT, layer)? })
}
