//! Gemma: norms with 1 + w, a scaled embedding, and a GELU gate.

use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, ModelError, decoder, heads, rope,
};
use crate::ops::Activation;

/// Names of the tanh form of GELU.
const BY_TANH: [&str; 3] = ["gelu_pytorch_tanh", "gelu_new", "gelu_fast"];

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        ..GroupedSpec::new(shape, rope)
    };
    stream(
        config,
        decoder(config, |_| Ok(LayerSpec::new(mixer.clone(), gate(config)?)))?,
    )
}

/// Reads the gated feed-forward. Old files of Gemma say `gelu`; transformers has always computed
/// the tanh form.
pub(super) fn gate(config: &ConfigJson) -> Result<GatedSpec, ModelError> {
    config.only("hidden_act", &[&["gelu"][..], &BY_TANH[..]].concat())?;
    config.only("hidden_activation", &BY_TANH)?;
    Ok(GatedSpec {
        activation: Activation::GeluTanh,
        ..GatedSpec::new(config.size("intermediate_size")?)
    })
}

/// Sets what all Gemma models have around their layers.
pub(super) fn stream(config: &ConfigJson, spec: DecoderSpec) -> Result<DecoderSpec, ModelError> {
    if config.flag("use_bidirectional_attention", false)? {
        return Err(config.fault("`use_bidirectional_attention` is `true`, known is `false`"));
    }
    let embed_scale = (spec.width as f64).sqrt();
    Ok(DecoderSpec {
        embed_scale,
        norm_offset: 1.0,
        ..spec
    })
}
