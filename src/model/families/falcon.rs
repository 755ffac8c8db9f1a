//! Falcon: parallel attention and feed-forward, one module for queries, keys and values, and layer
//! norms.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, Modules, Names, NormKind,
    NormPlacement, PlainActivation, PlainSpec, decoder, rope,
};

const NAMES: Names = Names {
    stem: "transformer.",
    embedding: "word_embeddings",
    layers: "h",
    final_norm: "ln_f",
    attention: "self_attention",
    fused_qkv: "query_key_value",
    attention_output: "dense",
    token_scores: "classifier",
    plain_mlp: ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let is_new = config.flag("new_decoder_architecture", false)?;
    for (key, is_on, known) in [
        ("alibi", config.flag("alibi", false)?, false),
        ("parallel_attn", config.flag("parallel_attn", false)?, true),
        ("rotary", config.flag("rotary", true)?, true),
    ] {
        if is_on != known {
            return Err(config.fault(format!("`{key}` is `{is_on}`, known is `{known}`")));
        }
    }
    for (key, expected) in [
        ("activation", "`gelu`"),
        ("attention_dropout", "a number"),
        ("hidden_dropout", "a number"),
    ] {
        config.not_null(key, expected)?;
    }
    if config.names("head_dim") {
        return Err(config
            .fault("`head_dim` is set, known is a Falcon without: it follows from `hidden_size`"));
    }
    config.only("activation", &["gelu"])?;
    let mixer = mixer(config, is_new)?;
    let width = config.size("hidden_size")?;
    let mlp = PlainSpec {
        inner: config.size_or("ffn_hidden_size", 4 * width)?,
        bias: mixer.output_bias,
        activation: PlainActivation::Gelu,
    };
    let norms = match (is_new, config.size_or_none("num_ln_in_parallel_attn")?) {
        (true, None | Some(2)) => NormPlacement::ParallelApart,
        (_, None | Some(1)) => NormPlacement::Parallel,
        (_, Some(norms)) => {
            let known = if is_new {
                "1, 2"
            } else {
                "1 without `new_decoder_architecture`"
            };
            return Err(config.fault(format!(
                "`num_ln_in_parallel_attn` is {norms}, known are {known}"
            )));
        }
    };
    let layer = LayerSpec {
        norms,
        ..LayerSpec::new(mixer, mlp)
    };
    // Its embedding knows no token of padding.
    Ok(DecoderSpec {
        names: NAMES,
        norm: NormKind::Layer,
        padding: None,
        ..decoder(config, |_| Ok(layer.clone()))?
    })
}

/// Reads the attention. Keys and values have one head for all or several; with one, `num_kv_heads`
/// is ignored.
fn mixer(config: &ConfigJson, is_new: bool) -> Result<GroupedSpec, ModelError> {
    let (width, heads) = (
        config.size("hidden_size")?,
        config.size("num_attention_heads")?,
    );
    if config.size_or("n_embed", width)? != width {
        return Err(config.fault(format!(
            "`n_embed` is another width than `hidden_size`, {width}, known is one width"
        )));
    }
    let kv_heads = match (is_new, config.flag("multi_query", false)?) {
        (false, true) => 1,
        _ => config.size_or("num_kv_heads", heads)?,
    };
    if !width.is_multiple_of(2 * heads) || !heads.is_multiple_of(kv_heads) {
        let message = format!(
            "`num_attention_heads`, {heads}, is no even part of `hidden_size`, {width}, or no \
            multiple of {kv_heads} key heads"
        );
        return Err(config.fault(message));
    }
    let shape = [heads, kv_heads, width / heads];
    let (rope, bias) = (rope::spec(config, shape[2])?, config.flag("bias", false)?);
    Ok(GroupedSpec {
        qkv: Modules::FusedByGroup,
        qkv_bias: bias,
        output_bias: bias,
        ..GroupedSpec::new(shape, rope)
    })
}
