//! LFM 2: short convolutions between gates, and attention with normalized heads in some layers.

use super::span::named_kind;
use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, MixerSpec, ModelError, Names,
    QueryKeyNorm, decoder, heads, rope,
};
use crate::model::spec::ConvolutionSpec;

/// Names of the convolution, the feed-forward and the norms.
pub(super) const NAMES: Names = Names {
    final_norm: "embedding_norm",
    attention_output: "out_proj",
    query_key_norms: ["q_layernorm", "k_layernorm"],
    norms: Some([
        "operator_norm",
        "post_operator_norm",
        "ffn_norm",
        "post_ffn_norm",
    ]),
    gate_up: ["feed_forward.w1", "feed_forward.w3"],
    mlp_output: "feed_forward.w2",
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let attention = GroupedSpec {
        qk_norm: QueryKeyNorm::Heads,
        ..GroupedSpec::new(shape, rope::spec(config, shape[2])?)
    };
    let (convolution, gate) = (convolution(config)?, GatedSpec::new(inner(config)?));
    let listed = config
        .get("full_attn_idxs")
        .is_some()
        .then(|| config.layers("full_attn_idxs"))
        .transpose()?;
    let spec = decoder(config, |index| {
        let known = ["full_attention", "conv"];
        let attends = match named_kind(config, index, &known)? {
            Some(kind) => kind == known[0],
            None => listed.as_ref().is_none_or(|listed| listed.contains(&index)),
        };
        let mixer: MixerSpec = if attends {
            attention.clone().into()
        } else {
            convolution.clone().into()
        };
        Ok(LayerSpec::new(mixer, gate.clone()))
    })?;
    // An older word, which counts.
    let tied_head = config.flag("tie_embedding", spec.tied_head)?;
    Ok(DecoderSpec {
        tied_head,
        names: NAMES,
        ..spec
    })
}

/// Reads the convolution.
pub(super) fn convolution(config: &ConfigJson) -> Result<ConvolutionSpec, ModelError> {
    Ok(ConvolutionSpec {
        module: "conv",
        channels: config.size("hidden_size")?,
        taps: config.size("conv_L_cache")?,
        bias: config.flag("conv_bias", false)?,
    })
}

/// Reads the inner width, which may be two thirds of what the config says, times a factor and
/// rounded up.
fn inner(config: &ConfigJson) -> Result<usize, ModelError> {
    // An older word, which counts.
    let said = match config.size_or_none("block_ff_dim")? {
        Some(said) => said,
        None => config.size("intermediate_size")?,
    };
    if !config.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(said);
    }
    let inner = 2 * said / 3;
    let Some(factor) = config.number_or_none("block_ffn_dim_multiplier")? else {
        return Ok(inner);
    };
    let inner = (factor * inner as f64) as usize;
    Ok(inner.next_multiple_of(config.size("block_multiple_of")?))
}
