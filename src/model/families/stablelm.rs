//! `StableLM`: Llama with layer norms and a rotation of a part of each head; some have parallel
//! attention and feed-forward.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormKind, NormPlacement, decoder,
    heads, plain, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    if config.flag("qk_layernorm", false)? {
        return Err(config.fault("`qk_layernorm` is `true`, known is `false`"));
    }
    let shape = heads(config)?;
    let mixer = GroupedSpec {
        qkv_bias: config.flag("use_qkv_bias", false)?,
        ..GroupedSpec::new(shape, rope::of_even_part(config, shape[2], 0.25)?)
    };
    let norms = if config.flag("use_parallel_residual", false)? {
        NormPlacement::Parallel
    } else {
        NormPlacement::Pre
    };
    let layer = LayerSpec {
        norms,
        ..plain(config, mixer)?
    };
    Ok(DecoderSpec {
        norm: NormKind::Layer,
        ..decoder(config, |_| Ok(layer.clone()))?
    })
}
