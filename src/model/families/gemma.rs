//! Gemma: norms of 1 + w, an embedding that is scaled, and a gate of GELU.

use super::{Config, DecoderSpec, Error, GatedSpec, GroupedSpec, LayerSpec, decoder, heads, padding, rope};
use crate::ops::Activation;

const CONTEXT: usize = 8192;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, Some(16), Some(256))?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec { qkv_bias: bias, output_bias: bias, ..GroupedSpec::new(shape, rope) };
    stream(config, decoder(config, CONTEXT, |_| Ok(LayerSpec::new(mixer.clone(), gate(config)?)))?)
}

/// Old files of Gemma say `gelu`; transformers has always computed its tanh form.
pub(super) fn gate(config: &Config) -> Result<GatedSpec, Error> {
    config.only("hidden_act", &["gelu", "gelu_pytorch_tanh"])?;
    config.only("hidden_activation", &["gelu_pytorch_tanh"])?;
    Ok(GatedSpec { activation: Activation::GeluTanh, ..GatedSpec::new(config.size("intermediate_size")?) })
}

/// What all Gemmas have around their layers.
pub(super) fn stream(config: &Config, spec: DecoderSpec) -> Result<DecoderSpec, Error> {
    let (tied_head, embed_scale) = (config.flag("tie_word_embeddings", true)?, (spec.width as f64).sqrt());
    Ok(DecoderSpec { tied_head, embed_scale, norm_offset: 1.0, padding: padding(config, Some(0))?, ..spec })
}
