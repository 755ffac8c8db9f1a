//! Granite: Llama's layers with multipliers for the embedding, scores, residual additions and
//! logits.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, decoder, heads, plain, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let (score_scale, residual_scale) = (
        config.number("attention_multiplier")?,
        config.number("residual_multiplier")?,
    );
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        score_scale,
        ..GroupedSpec::new(shape, rope)
    };
    let spec = decoder(config, |_| {
        Ok(LayerSpec {
            residual_scale,
            ..plain(config, mixer.clone())?
        })
    })?;
    let (embed_scale, logit_scale) = (
        config.number("embedding_multiplier")?,
        1.0 / config.number("logits_scaling")?,
    );
    Ok(DecoderSpec {
        embed_scale,
        logit_scale,
        ..spec
    })
}
