//! Gemma 2: capped scores and logits, a window in every other layer, and norms of each layer's
//! outputs too.

use super::gemma::{gate, stream};
use super::span::span;
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormPlacement, decoder, heads,
    kind_of_layer, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let score_scale = (config.size("query_pre_attn_scalar")? as f64).powf(-0.5);
    let softcap = config.number_or_none("attn_logit_softcapping")?;
    let window = config.size_or_none("sliding_window")?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        score_scale,
        softcap,
        ..GroupedSpec::new(shape, rope)
    };
    let layer = |index: usize| {
        let slides = kind_of_layer(config, index)?.unwrap_or(index.is_multiple_of(2));
        let mixer = GroupedSpec {
            span: span(config, index, slides, window)?,
            ..mixer.clone()
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
