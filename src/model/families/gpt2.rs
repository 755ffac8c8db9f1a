//! GPT-2: learned positions instead of a rotation, layer norms, biases, a feed-forward of GELU
//! without a gate, and weights that files have as [in, out].

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, Modules, Names, NormKind,
    PlainSpec, WeightOrder, decoder, heads, plain_activation,
};
use crate::nn::rope::RopeSpec;

/// Its keys for sizes, and the usual ones, which transformers reads too.
pub(super) const KEYS: [(&str, &str); 4] = [
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_layer", "num_hidden_layers"),
    ("n_positions", "max_position_embeddings"),
];
const NAMES: Names = Names {
    stem: "transformer.",
    embedding: "wte",
    positions: "wpe",
    layers: "h",
    final_norm: "ln_f",
    attention: "attn",
    fused_qkv: "c_attn",
    attention_output: "c_proj",
    norms: Some(["ln_1", "", "ln_2", ""]),
    token_scores: "classifier",
    plain_mlp: ["mlp.c_fc", "mlp.c_proj"],
    // The first checkpoints are of the model without its head.
    elsewhere: &[
        ("wte.", "transformer.wte."),
        ("wpe.", "transformer.wpe."),
        ("h.", "transformer.h."),
        ("ln_f.", "transformer.ln_f."),
    ],
    // Masks of the context.
    buffers: &[".attn.bias", ".attn.masked_bias"],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    for (key, is_on, known) in [
        (
            "scale_attn_weights",
            config.flag("scale_attn_weights", true)?,
            true,
        ),
        (
            "scale_attn_by_inverse_layer_idx",
            config.flag("scale_attn_by_inverse_layer_idx", false)?,
            false,
        ),
        (
            "add_cross_attention",
            config.flag("add_cross_attention", false)?,
            false,
        ),
    ] {
        if is_on != known {
            return Err(config.fault(format!("`{key}` is `{is_on}`, known is `{known}`")));
        }
    }
    // transformers passes over numbers of key heads and widths of heads here.
    let config = &config
        .clone()
        .without("num_key_value_heads")
        .without("head_dim");
    let shape = heads(config)?;
    let mixer = GroupedSpec {
        qkv: Modules::Fused,
        qkv_bias: true,
        output_bias: true,
        ..GroupedSpec::new(shape, None::<RopeSpec>)
    };
    let mlp = PlainSpec {
        inner: config.size_or("n_inner", 4 * config.size("hidden_size")?)?,
        bias: true,
        activation: plain_activation(config, "activation_function")?,
    };
    // Its embedding knows no token of padding.
    Ok(DecoderSpec {
        names: NAMES,
        norm: NormKind::Layer,
        learns_positions: true,
        weight_order: WeightOrder::InOut,
        padding: None,
        ..decoder(config, |_| Ok(LayerSpec::new(mixer.clone(), mlp.clone())))?
    })
}
