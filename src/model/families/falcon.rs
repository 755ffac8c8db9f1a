//! Falcon: attention and feed-forward side by side, one module of queries, keys and values, and norms of layers.

use super::{
    Config, DecoderSpec, Error, GroupedSpec, LayerSpec, Modules, Names, NormKind, NormPlacement, PlainSpec, decoder, rope,
};

const CONTEXT: usize = 2048;
const NAMES: Names = Names {
    stem: "transformer.",
    embedding: "word_embeddings",
    layers: "h",
    final_norm: "ln_f",
    attention: "self_attention",
    fused_qkv: "query_key_value",
    attention_output: "dense",
    elsewhere: &[],
};

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    for (key, known) in [("alibi", false), ("parallel_attn", true)] {
        let is_new = config.flag("new_decoder_architecture", false)? && key == "parallel_attn";
        if config.flag(key, known)? != known && !is_new {
            return Err(config.fault(format!("`{key}` is `{}`, known is `{known}`", !known)));
        }
    }
    if let Some(share) = config.number_or_zero("hidden_dropout")?.filter(|share| *share > 0.0) {
        return Err(config.fault(format!("`hidden_dropout` is {share}, known is 0")));
    }
    config.only("activation", &["gelu"])?;
    let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let is_new = config.flag("new_decoder_architecture", false)?;
    // Where there is one key head for all, `num_kv_heads` is not looked at.
    let kv_heads = match (is_new, config.flag("multi_query", true)?) {
        (false, true) => 1,
        _ => config.size_or("num_kv_heads", heads)?,
    };
    if !width.is_multiple_of(2 * heads) || !heads.is_multiple_of(kv_heads) {
        let message = format!(
            "`num_attention_heads`, {heads}, is no even part of `hidden_size`, {width}, or no multiple of {kv_heads} key heads"
        );
        return Err(config.fault(message));
    }
    let shape = [heads, kv_heads, width / heads];
    let bias = config.flag("bias", false)?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    let mixer = GroupedSpec { qkv: Modules::FusedByGroup, qkv_bias: bias, output_bias: bias, ..GroupedSpec::new(shape, rope) };
    let mlp = PlainSpec { inner: config.size_or("ffn_hidden_size", 4 * width)?, bias };
    let norms = match (is_new, config.size_or_none("num_ln_in_parallel_attn")?) {
        (true, None | Some(2)) => NormPlacement::ParallelApart,
        (false, Some(2)) => {
            return Err(config.fault("`num_ln_in_parallel_attn` is 2, known is 1 without `new_decoder_architecture`"));
        }
        _ => NormPlacement::Parallel,
    };
    let layer = LayerSpec { norms, ..LayerSpec::new(mixer, mlp) };
    let spec = decoder(config, CONTEXT, |_| Ok(layer.clone()))?;
    let (tied_head, epsilon) = (config.flag("tie_word_embeddings", true)?, config.number_or_none("layer_norm_epsilon")?);
    let norm_epsilon = epsilon.unwrap_or(1e-5);
    // Its embedding knows no token of padding.
    Ok(DecoderSpec { tied_head, names: NAMES, norm: NormKind::Layer, norm_epsilon, padding: None, ..spec })
}
