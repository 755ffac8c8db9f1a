//! `ModernBERT`: an encoder with rotations, a gated feed-forward and windows on both sides in most
//! layers, Warner et al. 2024, arXiv:2412.13663.

use super::span::named_kind;
use super::{
    ConfigJson, DecoderSpec, EmbeddingNorm, GatedSpec, GroupedSpec, LayerSpec, ModelError, Modules,
    Names, NormKind, NormPlacement, ScoreLayerSpec, ScoreSpec, ScoringSpec, Span, decoder, heads,
    rope,
};
use crate::nn::score_layer::ScoreActivation;
use crate::ops::Activation;
use crate::terms::Pooling;

/// Its key for the base of rotations, and the usual one.
pub(super) const KEYS: [(&str, &str); 1] = [("global_rope_theta", "rope_theta")];
const BASES: rope::Bases = rope::Bases {
    full: 160_000.0,
    sliding: 10_000.0,
    sliding_key: Some("local_rope_theta"),
};
const NAMES: Names = Names {
    embedding: "embeddings.tok_embeddings",
    embedding_norm: "embeddings.norm",
    final_norm: "final_norm",
    attention: "attn",
    fused_qkv: "Wqkv",
    attention_output: "Wo",
    norms: Some(["attn_norm", "", "mlp_norm", ""]),
    fused_gate_up: "mlp.Wi",
    mlp_output: "mlp.Wo",
    // The encoder alone has no prefix.
    elsewhere: &[
        ("embeddings.", "model.embeddings."),
        ("layers.", "model.layers."),
        ("final_norm.", "model.final_norm."),
    ],
    passes_by: &["head.", "decoder.", "classifier."],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    // transformers passes over numbers of key heads and widths of heads here.
    let config = &config
        .clone()
        .without("num_key_value_heads")
        .without("head_dim");
    let shape = heads(config)?;
    let [full, sliding] = rope::of_kinds(config, shape[2], &BASES)?;
    let bias = config.flag("attention_bias", false)?;
    config.only("hidden_activation", &["gelu"])?;
    let mlp = GatedSpec {
        gate_up: Modules::Fused,
        bias: config.flag("mlp_bias", false)?,
        activation: Activation::Gelu,
        ..GatedSpec::new(config.size("intermediate_size")?)
    };
    let reach = config.size("local_attention")? / 2;
    let period = config.size_or("global_attn_every_n_layers", 3)?;
    let layer = |index: usize| {
        let slides = match named_kind(config, index, &["full_attention", "sliding_attention"])? {
            Some(kind) => kind == "sliding_attention",
            None => !index.is_multiple_of(period),
        };
        let (rope, span) = if slides {
            (&sliding, Span::Around { reach })
        } else {
            (&full, Span::Document)
        };
        let mixer = GroupedSpec {
            qkv: Modules::Fused,
            qkv_bias: bias,
            output_bias: bias,
            span,
            ..GroupedSpec::new(shape, rope.clone())
        };
        Ok(LayerSpec {
            norms: if index == 0 {
                NormPlacement::PreMlp
            } else {
                NormPlacement::Pre
            },
            ..LayerSpec::new(mixer, mlp.clone())
        })
    };
    Ok(DecoderSpec {
        names: NAMES,
        // There is no head: nothing of it is read.
        tied_head: true,
        norm: if config.flag("norm_bias", false)? {
            NormKind::Layer
        } else {
            NormKind::LayerWithoutBias
        },
        embedding_norm: EmbeddingNorm::OfSum,
        scoring: Some(scoring(config)?),
        ..decoder(config, layer)?
    })
}

/// Reads the heads of texts and of words, which are alike.
fn scoring(config: &ConfigJson) -> Result<ScoringSpec, ModelError> {
    config.only("classifier_activation", &["gelu"])?;
    config.only("classifier_pooling", &["cls", "mean"])?;
    let head = ScoreSpec {
        module: "classifier",
        layer: Some(ScoreLayerSpec {
            dense: "head.dense",
            has_bias: config.flag("classifier_bias", false)?,
            activation: ScoreActivation::Gelu,
            norm: Some(("head.norm", config.flag("norm_bias", false)?)),
            module: "head",
            is_of_head: false,
        }),
    };
    Ok(ScoringSpec {
        pooling: match config.text("classifier_pooling")? {
            Some("mean") => Pooling::Mean,
            _ => Pooling::First,
        },
        texts: head.clone(),
        words: head,
    })
}
