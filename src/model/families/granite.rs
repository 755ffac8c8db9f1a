//! Granite: Llama's layers with multipliers for the embedding, scores, residual additions and
//! logits.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, decoder, heads, plain, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let mixer = attention(config)?;
    scaled(config, decoder(config, |_| plain(config, mixer.clone()))?)
}

/// Reads the attention, whose scores have a multiplier.
pub(super) fn attention(config: &ConfigJson) -> Result<GroupedSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    Ok(GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        score_scale: config.number("attention_multiplier")?,
        ..GroupedSpec::new(shape, rope)
    })
}

/// Sets the multipliers of embedding, residual additions and logits.
pub(super) fn scaled(config: &ConfigJson, spec: DecoderSpec) -> Result<DecoderSpec, ModelError> {
    let residual_scale = config.number("residual_multiplier")?;
    let layers = spec.layers.into_iter().map(|layer| LayerSpec {
        residual_scale,
        ..layer
    });
    Ok(DecoderSpec {
        layers: layers.collect(),
        embed_scale: config.number("embedding_multiplier")?,
        logit_scale: 1.0 / config.number("logits_scaling")?,
        ..spec
    })
}
