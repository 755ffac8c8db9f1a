//! The features of an adapter that consumers check: from a recipe before training, or from the
//! files of any folder in PEFT's format, without understanding anything else in it.

use std::path::Path;

use serde_json::Value;

use crate::adapter::{AdapterError, LoraConfig, Tables, peft};
use crate::model::LinearSpec;
use crate::terms::AdapterVector;

/// The prefix of projections' names in PEFT's files, for every model family that is known here.
const PREFIX: &str = "base_model.model.model.layers.";
/// Modules outside of layers, by the last part of their names.
const OUTSIDE: [&str; 2] = ["lm_head", "embed_tokens"];

/// A feature beyond plain LoRA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Scaling by alpha / sqrt(r).
    RsLora,
    /// Ranks or alphas that differ by module.
    Patterns,
    /// Weights decomposed into magnitude and direction.
    Dora,
    /// Biases in the adapter.
    Biases,
    /// Trained token rows, including those of new tokens.
    TokenRows,
    /// A bias for a map that has none in the base: it cannot be merged.
    LoneBiases,
    /// A head that scores texts.
    ScoreHead,
    /// A head that scores words.
    TokenScoreHead,
    /// Vectors of texts: the adapter is of the model without its head.
    Embedder,
}

/// The kind of thing that is trained or served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subject {
    /// An adapter, alone or merged.
    #[default]
    Adapter,
    /// A whole model.
    Model,
}

/// The features of an adapter or model, as far as consumers check them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// The kind. Of a model only the architecture counts.
    pub subject: Subject,
    /// The largest rank.
    pub rank: usize,
    /// The first alpha that is not a whole number.
    pub broken_alpha: Option<f64>,
    /// Its features beyond plain LoRA.
    pub features: Vec<Feature>,
    /// Modules that are saved whole.
    pub saved_modules: Vec<String>,
    /// Adapters of the head or the embedding.
    pub outside_layers: Vec<String>,
    /// The first tensor whose name differs from PEFT's.
    pub misnamed: Option<String>,
    /// The first tensor that is neither A nor B.
    pub stray: Option<String>,
    /// llama.cpp's name of the base's architecture, if the base is known.
    pub architecture: Option<&'static str>,
}

impl Features {
    /// Returns the features of a whole model.
    pub fn of_model(architecture: Option<&'static str>) -> Self {
        Self {
            subject: Subject::Model,
            architecture,
            ..Self::default()
        }
    }

    /// Returns whether it has a feature beyond plain LoRA.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// Returns the features of an adapter to be trained.
    pub fn of(config: &LoraConfig, architecture: Option<&'static str>) -> Self {
        let ranks = config
            .rank_pattern
            .iter()
            .map(|(_, rank)| *rank)
            .chain([config.rank]);
        let mut alphas = config
            .alpha_pattern
            .iter()
            .map(|(_, alpha)| *alpha)
            .chain([config.alpha]);
        let outside_layers = outside(config);
        let of_embedding = outside_layers
            .iter()
            .find(|module| module.ends_with(OUTSIDE[1]))
            .map(|module| format!("{module}.lora_embedding_A"));
        let scores_tokens = config.score.as_ref().map(|score| score.is_of_tokens);
        let Tables { saved, tokens } = &config.tables;
        let of_saved = saved.first().map(|name| format!("{name}.weight"));
        Self {
            rank: ranks.max().unwrap_or(config.rank),
            broken_alpha: alphas.find(|alpha| alpha.fract() != 0.0),
            features: those([
                (Feature::RsLora, config.use_rslora),
                (
                    Feature::Patterns,
                    !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty(),
                ),
                (Feature::Dora, config.has(AdapterVector::Magnitude)),
                (Feature::Biases, config.has(AdapterVector::Bias)),
                (Feature::TokenRows, tokens.is_some()),
                (Feature::ScoreHead, scores_tokens == Some(false)),
                (Feature::TokenScoreHead, scores_tokens == Some(true)),
                (Feature::Embedder, config.is_of_features),
            ]),
            architecture,
            saved_modules: saved.clone(),
            outside_layers,
            stray: of_saved
                .or(tokens.as_ref().map(|_| "trainable_tokens_delta".to_owned()))
                .or(of_embedding)
                .or(config.vector.map(|vector| vector.name().to_owned())),
            ..Self::default()
        }
    }

    /// Adds the features that depend on the base's projections.
    #[must_use]
    pub fn on(mut self, config: &LoraConfig, projections: &[LinearSpec]) -> Self {
        let names: Vec<String> = projections
            .iter()
            .map(|linear| linear.name.clone())
            .collect();
        let targets = config.resolve(&names).unwrap_or_default();
        let is_lone = |linear: &LinearSpec| {
            !linear.bias && targets.iter().any(|target| target.module == linear.name)
        };
        if self.has(Feature::Biases) && projections.iter().any(is_lone) {
            self.features.push(Feature::LoneBiases);
        }
        self
    }

    /// Reads the features of a folder in PEFT's format from any source.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn read(folder: &Path, architecture: Option<&'static str>) -> Result<Self, AdapterError> {
        let (config, archive) = (peft::read_json_config(folder)?, peft::open(folder)?);
        let (keys, is_true) = (archive.shapes(), |key: &str| {
            config[key] == Value::Bool(true)
        });
        let module = |key: &str| {
            key.rsplit_once(".lora_")
                .map_or(key, |(module, _)| module)
                .to_owned()
        };
        let is_pair =
            |key: &&String| key.ends_with(".lora_A.weight") || key.ends_with(".lora_B.weight");
        let is_outside = |key: &&String| OUTSIDE.iter().any(|name| module(key).ends_with(name));
        let mut outside_layers: Vec<String> = keys
            .keys()
            .filter(|key| key.contains(".lora_"))
            .filter(is_outside)
            .map(|key| module(key))
            .collect();
        outside_layers.dedup();
        let values = |key: &str| {
            config[key]
                .as_object()
                .map(|entries| entries.values().cloned().collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let alphas = [vec![config["lora_alpha"].clone()], values("alpha_pattern")].concat();
        let ranks = [vec![config["r"].clone()], values("rank_pattern")].concat();
        let has_bias =
            is_true("lora_bias") || config["bias"].as_str().is_some_and(|bias| bias != "none");
        Ok(Self {
            subject: Subject::Adapter,
            rank: ranks
                .iter()
                .filter_map(Value::as_u64)
                .max()
                .and_then(|rank| usize::try_from(rank).ok())
                .unwrap_or(0),
            broken_alpha: alphas
                .iter()
                .filter_map(Value::as_f64)
                .find(|alpha| alpha.fract() != 0.0),
            features: those([
                (Feature::RsLora, is_true("use_rslora")),
                (
                    Feature::Patterns,
                    !values("rank_pattern").is_empty() || !values("alpha_pattern").is_empty(),
                ),
                (Feature::Dora, is_true("use_dora")),
                (Feature::Biases, has_bias),
                (
                    Feature::TokenRows,
                    keys.keys().any(|key| key.contains(".trainable_tokens")),
                ),
                (Feature::ScoreHead, config["task_type"] == "SEQ_CLS"),
                (Feature::TokenScoreHead, config["task_type"] == "TOKEN_CLS"),
                (
                    Feature::Embedder,
                    config["task_type"] == "FEATURE_EXTRACTION",
                ),
            ]),
            saved_modules: names(&config["modules_to_save"]),
            outside_layers,
            misnamed: keys
                .keys()
                .filter(is_pair)
                .find(|key| !key.starts_with(PREFIX) && !is_outside(key))
                .cloned(),
            stray: keys.keys().find(|key| !is_pair(key)).cloned(),
            architecture,
        })
    }
}

/// Returns the features whose condition holds.
fn those<const N: usize>(features: [(Feature, bool); N]) -> Vec<Feature> {
    features
        .into_iter()
        .filter(|(_, is_there)| *is_there)
        .map(|(feature, _)| feature)
        .collect()
}

/// Returns the adapters of the head and the embedding that a config asks for.
fn outside(config: &LoraConfig) -> Vec<String> {
    let chosen = |name: &str| config.resolve(&[name.to_owned()]).unwrap_or_default();
    ["lm_head", "model.embed_tokens"]
        .into_iter()
        .flat_map(chosen)
        .map(|target| target.module)
        .collect()
}

fn names(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
