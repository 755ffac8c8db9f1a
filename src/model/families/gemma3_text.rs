//! Gemma 3 for text: normalized query and key heads, a window in five of six layers, and a rotation
//! for each kind of layer.

use super::gemma::{gate, stream};
use super::span::span;
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormPlacement, QueryKeyNorm,
    decoder, heads, kind_of_layer, rope,
};

/// Period of the layers without a window where the config does not list them.
const PATTERN: usize = 6;
const BASES: rope::Bases = rope::Bases {
    full: 1e6,
    sliding: 1e4,
    sliding_key: Some("rope_local_base_freq"),
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let [full, sliding] = rope::of_kinds(config, shape[2], &BASES)?;
    let bias = config.flag("attention_bias", false)?;
    let score_scale = (config.size("query_pre_attn_scalar")? as f64).powf(-0.5);
    if let Some(cap) = config.number_or_none("attn_logit_softcapping")? {
        return Err(config.fault(format!(
            "`attn_logit_softcapping` is {cap}, known is null: transformers passes over it here"
        )));
    }
    let window = config.size_or_none("sliding_window")?;
    config.not_null("sliding_window_pattern", "a whole number")?;
    let pattern = config.size_or("sliding_window_pattern", PATTERN)?;
    let layer = |index: usize| {
        let slides = kind_of_layer(config, index)?.unwrap_or(!(index + 1).is_multiple_of(pattern));
        let (rope, span) = (
            if slides { &sliding } else { &full },
            span(config, index, slides, window)?,
        );
        let plain = GroupedSpec::new(shape, rope.clone());
        let qk_norm = QueryKeyNorm::Heads;
        let mixer = GroupedSpec {
            qkv_bias: bias,
            output_bias: bias,
            qk_norm,
            span,
            score_scale,
            ..plain
        };
        Ok(LayerSpec {
            norms: NormPlacement::PreAndPost,
            ..LayerSpec::new(mixer, gate(config)?)
        })
    };
    let final_softcap = config.number_or_none("final_logit_softcapping")?;
    stream(
        config,
        DecoderSpec {
            final_softcap,
            ..decoder(config, layer)?
        },
    )
}
