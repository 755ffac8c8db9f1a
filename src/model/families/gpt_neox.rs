//! GPT-NeoX and Pythia: one module for queries, keys and values of each head, layer norms, a
//! rotation of a part of each head, and parallel attention and feed-forward with a norm each.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, Modules, Names, NormKind,
    NormPlacement, PlainSpec, decoder, heads, plain_activation, rope,
};

const NAMES: Names = Names {
    stem: "gpt_neox.",
    embedding: "embed_in",
    final_norm: "final_layer_norm",
    attention: "attention",
    fused_qkv: "query_key_value",
    attention_output: "dense",
    norms: Some(["input_layernorm", "", "post_attention_layernorm", ""]),
    token_scores: "classifier",
    plain_mlp: ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
    head: "embed_out",
    // Masks of the context.
    buffers: &[
        ".attention.bias",
        ".attention.masked_bias",
        "rotary_emb.inv_freq",
    ],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    // transformers passes over a number of key heads here.
    let shape = heads(&config.clone().without("num_key_value_heads"))?;
    let [count, _, head_dim] = shape;
    let width = config.size("hidden_size")?;
    if head_dim * count != width {
        return Err(config.fault(format!(
            "`head_dim` is {head_dim}, expected `hidden_size`, {width}, divided by \
            `num_attention_heads`, {count}"
        )));
    }
    let bias = config.flag("attention_bias", true)?;
    let mixer = GroupedSpec {
        qkv: Modules::FusedByGroup,
        qkv_bias: bias,
        output_bias: bias,
        ..GroupedSpec::new(shape, rope::of_gpt_neox(config, head_dim)?)
    };
    let mlp = PlainSpec {
        inner: config.size("intermediate_size")?,
        bias: true,
        activation: plain_activation(config, "hidden_act")?,
    };
    let norms = if config.flag("use_parallel_residual", true)? {
        NormPlacement::ParallelApart
    } else {
        NormPlacement::Pre
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
