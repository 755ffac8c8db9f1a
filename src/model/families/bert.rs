//! BERT and `RoBERTa`: encoders whose tokens see all others, learned positions and token types, and
//! norms after each sum.

use super::{
    ConfigJson, DecoderSpec, EmbeddingNorm, GroupedSpec, LayerSpec, ModelError, Names, NormKind,
    NormPlacement, PlainSpec, ScoreLayerSpec, ScoreSpec, ScoringSpec, Span, decoder, heads,
    plain_activation,
};
use crate::nn::rope::RopeSpec;
use crate::nn::score_layer::ScoreActivation;
use crate::terms::Pooling;

/// Names of the encoder within a model that has something on top of it.
const BERT: Names = Names {
    stem: "bert.",
    embedding: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    token_types: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    attention: "attention",
    qkv: ["self.query", "self.key", "self.value"],
    attention_output: "output.dense",
    norms: Some(["", "attention.output.LayerNorm", "", "output.LayerNorm"]),
    plain_mlp: ["intermediate.dense", "output.dense"],
    // The encoder alone has no prefix.
    elsewhere: &[
        ("embeddings.", "bert.embeddings."),
        ("encoder.", "bert.encoder."),
        ("pooler.", "bert.pooler."),
    ],
    // The first checkpoints were made for TensorFlow.
    modules_elsewhere: &[
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("LayerNorm.beta", "LayerNorm.bias"),
    ],
    buffers: &["embeddings.position_ids", "embeddings.token_type_ids"],
    passes_by: &["bert.pooler.", "cls.", "classifier."],
    ..Names::USUAL
};
const ROBERTA: Names = Names {
    stem: "roberta.",
    elsewhere: &[
        ("embeddings.", "roberta.embeddings."),
        ("encoder.", "roberta.encoder."),
        ("pooler.", "roberta.pooler."),
    ],
    passes_by: &["roberta.pooler.", "lm_head.", "classifier."],
    ..BERT
};

/// The head of words, and of texts behind a layer.
const WORDS: ScoreSpec = ScoreSpec {
    module: "classifier",
    layer: None,
};
const POOLER: ScoreLayerSpec = ScoreLayerSpec {
    dense: "bert.pooler.dense",
    has_bias: true,
    activation: ScoreActivation::Tanh,
    norm: None,
    module: "pooler",
    is_of_head: false,
};

pub(super) fn bert(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let texts = ScoreSpec {
        layer: Some(POOLER),
        ..WORDS
    };
    encoder(config, BERT, texts)
}

/// Reads `RoBERTa` or `XLM-RoBERTa`, whose positions begin after that of the padding token.
pub(super) fn roberta(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let texts = ScoreSpec {
        module: "classifier.out_proj",
        layer: Some(ScoreLayerSpec {
            dense: "classifier.dense",
            module: "classifier",
            is_of_head: true,
            ..POOLER
        }),
    };
    let spec = encoder(config, ROBERTA, texts)?;
    let Some(padding) = spec.padding else {
        return Err(config.fault(
            "`pad_token_id` names no token, expected one: positions begin after its number",
        ));
    };
    let first_position = padding as usize + 1;
    let context = spec.context.saturating_sub(first_position);
    if context == 0 {
        return Err(config.fault(format!(
            "`max_position_embeddings` is {}, expected more than `pad_token_id` and 1, \
            {first_position}: positions begin there",
            spec.context
        )));
    }
    Ok(DecoderSpec {
        first_position,
        context,
        ..spec
    })
}

fn encoder(config: &ConfigJson, names: Names, texts: ScoreSpec) -> Result<DecoderSpec, ModelError> {
    for key in ["is_decoder", "add_cross_attention"] {
        if config.flag(key, false)? {
            return Err(config.fault(format!("`{key}` is `true`, known is `false`")));
        }
    }
    if let Some(kind) = config
        .text("position_embedding_type")?
        .filter(|kind| *kind != "absolute")
    {
        return Err(config.fault(format!(
            "`position_embedding_type` is `{kind}`, known is `absolute`"
        )));
    }
    // transformers passes over numbers of key heads and widths of heads here.
    let config = &config
        .clone()
        .without("num_key_value_heads")
        .without("head_dim");
    let mixer = GroupedSpec {
        qkv_bias: true,
        output_bias: true,
        span: Span::Document,
        ..GroupedSpec::new(heads(config)?, None::<RopeSpec>)
    };
    let mlp = PlainSpec {
        inner: config.size("intermediate_size")?,
        bias: true,
        activation: plain_activation(config, "hidden_act")?,
    };
    let last = config.size("num_hidden_layers")? - 1;
    let layer = |index: usize| {
        Ok(LayerSpec {
            norms: if index == last {
                NormPlacement::FirstSum
            } else {
                NormPlacement::Sum
            },
            ..LayerSpec::new(mixer.clone(), mlp.clone())
        })
    };
    Ok(DecoderSpec {
        names,
        // There is no head: nothing of it is read.
        tied_head: true,
        norm: NormKind::Layer,
        embedding_norm: EmbeddingNorm::OfSum,
        learns_positions: true,
        token_types: config.size("type_vocab_size")?,
        scoring: Some(ScoringSpec {
            pooling: Pooling::First,
            texts,
            words: WORDS,
        }),
        ..decoder(config, layer)?
    })
}
