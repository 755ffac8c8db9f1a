//! Granite: Llama's layers with multipliers of the embedding, of scores, of what is added to the stream, and of logits.

use super::{Config, DecoderSpec, Error, GroupedSpec, LayerSpec, decoder, heads, plain, rope};

const CONTEXT: usize = 2048;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, None, None)?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    let bias = config.flag("attention_bias", false)?;
    let factor = |key: &str| Ok::<_, Error>(config.number_or_none(key)?.unwrap_or(1.0));
    let (score_scale, residual_scale) = (factor("attention_multiplier")?, factor("residual_multiplier")?);
    let mixer = GroupedSpec { qkv_bias: bias, output_bias: bias, score_scale, ..GroupedSpec::new(shape, rope) };
    let spec = decoder(config, CONTEXT, |_| Ok(LayerSpec { residual_scale, ..plain(config, mixer.clone())? }))?;
    Ok(DecoderSpec { embed_scale: factor("embedding_multiplier")?, logit_scale: 1.0 / factor("logits_scaling")?, ..spec })
}
