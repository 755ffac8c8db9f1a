//! The score head of an adapter, as PEFT saves it for a model that classifies: the module `score`
//! among `modules_to_save`, trained whole, and `task_type` in place of a language model's. What its
//! scores mean stands in a file beside the adapter, because PEFT has no place for it.

use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use serde_json::{Map, Value, json};

use super::AdapterError;
use super::numbers::Numbers;
use crate::files::{JSON_BYTES, read_text_up_to};
use crate::model::{Decoder, Folder, ScoreLayerSpec, ScoreSpec};
use crate::nn::lora::initial_normal;
use crate::nn::norm::Norm;
use crate::nn::score_head::ScoreHead;
use crate::nn::score_layer::ScoreLayer;
use crate::terms::{ProblemType, Term};

/// The file beside an adapter that says what its scores mean. It has the keywords that
/// `AutoModelForSequenceClassification.from_pretrained` takes.
pub const LABELS: &str = "labels.json";
/// Standard deviation of a fresh head, the `initializer_range` of most configs.
const INITIAL_DEVIATION: f32 = 0.02;
/// Modules of maps to scores in transformers, by its architectures.
pub(super) const MODULES: [&str; 3] = ["score", "classifier", "classifier.out_proj"];
/// Parts of the names of a layer before scores, with the module that `modules_to_save` names.
const LAYERS: [(&str, &str); 4] = [
    ("classifier.dense.", "classifier"),
    ("pooler.dense.", "pooler"),
    ("head.dense.", "head"),
    ("head.norm.", "head"),
];
/// What stands between the module and its tensors, by the way in which it was saved.
pub(super) const SCORE_COPIES: [&str; 2] = ["", "modules_to_save."];

/// A score head in an adapter's config.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreConfig {
    /// The module: `score`, or `classifier` where the architecture calls it that.
    pub module: String,
    /// The layer before the map to scores, if it trains too.
    pub layer: Option<SavedLayer>,
    /// The number of scores.
    pub labels: usize,
    /// Whether there is a bias.
    pub has_bias: bool,
    /// Whether each token is scored, rather than a whole text.
    pub is_of_tokens: bool,
    /// The name of each score; empty where nothing tells.
    pub names: Vec<String>,
    /// The problem; `None` of a reward model, or where nothing tells.
    pub problem: Option<ProblemType>,
    /// The padding token, which no text is scored at.
    pub padding: Option<u32>,
}

impl ScoreConfig {
    /// Returns PEFT's `task_type`.
    pub fn task_type(&self) -> &'static str {
        if self.is_of_tokens {
            "TOKEN_CLS"
        } else {
            "SEQ_CLS"
        }
    }

    /// Returns the number of its weights for a model of this width.
    pub fn parameters(&self, width: usize) -> usize {
        let of_layer = self.layer.iter().flat_map(|layer| &layer.tensors);
        let of_layer: usize = of_layer
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        of_layer + self.labels * (width + usize::from(self.has_bias))
    }

    /// Whether it reads a causal model, which scores a text at its end.
    pub fn is_of_causal_model(&self) -> bool {
        !self.is_of_tokens && self.module == MODULES[0]
    }

    /// Returns the modules that PEFT saves whole.
    pub fn saved_modules(&self) -> Vec<&str> {
        let own = self.module.split('.').next().unwrap_or_default();
        let of_layer = self.layer.iter().map(|layer| layer.module.as_str());
        let of_layer = of_layer.filter(|module| *module != own);
        [own].into_iter().chain(of_layer).collect()
    }

    /// Returns the name of a score, as transformers calls one without a name.
    pub fn name(&self, label: usize) -> String {
        let named = self.names.get(label).cloned();
        named.unwrap_or_else(|| format!("LABEL_{label}"))
    }

    /// Returns the text of [`LABELS`].
    pub fn labels_text(&self) -> String {
        let ids: Map<String, Value> = (0..self.labels)
            .map(|label| (label.to_string(), json!(self.name(label))))
            .collect();
        let names: Map<String, Value> = (0..self.labels)
            .map(|label| (self.name(label), json!(label)))
            .collect();
        // Of words the loss is always that of classes, and transformers has no word for it.
        let problem = self.problem.filter(|_| !self.is_of_tokens);
        let labels = json!({
            "num_labels": self.labels,
            "id2label": ids,
            "label2id": names,
            "problem_type": problem.map(Term::word),
            "pad_token_id": self.padding,
        });
        serde_json::to_string_pretty(&labels).expect("JSON values can be printed") + "\n"
    }

    /// Returns what config.json of a model with the head says of it.
    pub fn model_entries(&self) -> Map<String, Value> {
        let labels: Value = serde_json::from_str(&self.labels_text()).unwrap_or_default();
        let entries = labels.as_object().cloned().unwrap_or_default().into_iter();
        entries
            .filter(|(key, value)| key != "num_labels" && !value.is_null())
            .collect()
    }

    /// Reads the head that a model has of its own; `None` where it has none.
    ///
    /// # Errors
    /// A file of the model cannot be read, or config.json has other labels.
    pub fn of_model(model: &Folder, path: &Path) -> Result<Option<Self>, AdapterError> {
        let stored = model.stored_scores()?;
        let is_of_tokens = model
            .class
            .as_ref()
            .is_some_and(|class| class.ends_with("ForTokenClassification"));
        let spec = model.spec.scoring.as_ref();
        let modules = match spec.map(|scoring| scoring.head(is_of_tokens)) {
            Some(head) => vec![head.module],
            None => vec![MODULES[0], model.spec.names.token_scores],
        };
        let found = modules.into_iter().find_map(|module| {
            let shape = stored.get(&format!("{module}.weight"))?;
            Some((module, *shape.first()?))
        });
        let Some((module, labels)) = found else {
            return Ok(None);
        };
        let score = Self {
            module: module.to_owned(),
            layer: None,
            labels,
            has_bias: stored.contains_key(&format!("{module}.bias")),
            is_of_tokens,
            names: Vec::new(),
            problem: is_of_tokens.then_some(ProblemType::Token),
            padding: None,
        };
        let config = path.join("config.json");
        let text = read_text_up_to(&config, JSON_BYTES)?;
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        if said["id2label"].is_null() {
            return Ok(Some(score));
        }
        score.told(&said, &config).map(Some)
    }

    /// Adds what [`LABELS`] of a folder tells, if it is there.
    ///
    /// # Errors
    /// The file cannot be read, or does not fit the number of scores.
    pub(super) fn with_labels_of(self, folder: &Path) -> Result<Self, AdapterError> {
        let path = folder.join(LABELS);
        if !path.exists() {
            return Ok(self);
        }
        let text = read_text_up_to(&path, JSON_BYTES)?;
        let said: Value = serde_json::from_str(&text).map_err(|error| AdapterError::Config {
            place: path.display().to_string(),
            message: format!("not valid JSON: {error}"),
        })?;
        self.told(&said, &path)
    }

    /// Adds names, problem and padding token.
    fn told(self, said: &Value, path: &Path) -> Result<Self, AdapterError> {
        let fault = |message: String| AdapterError::Config {
            place: path.display().to_string(),
            message,
        };
        let name_of = |label: usize| said["id2label"][label.to_string()].as_str();
        let names: Option<Vec<String>> = (0..self.labels)
            .map(|label| name_of(label).map(str::to_owned))
            .collect();
        let found = said["id2label"].as_object().map_or(0, Map::len);
        let names = names.filter(|names| names.len() == found).ok_or_else(|| {
            let labels = self.labels;
            fault(format!(
                "`id2label` has {found} names, expected those of 0 to {} for a head of {labels}",
                labels - 1
            ))
        })?;
        let problem = said["problem_type"].as_str().and_then(ProblemType::parse);
        let padding = said["pad_token_id"].as_u64();
        Ok(Self {
            names,
            problem: problem.or(self.problem),
            padding: padding.and_then(|id| u32::try_from(id).ok()),
            ..self
        })
    }

    /// Makes the head: with the numbers given, those that the checkpoint has for as many scores, or
    /// drawn from N(0, 0.02²) with a bias of 0.
    ///
    /// # Errors
    /// It is the head of another architecture, or a layer is in neither the adapter nor the base.
    pub(super) fn head(
        &self,
        decoder: &Decoder,
        seed: u64,
        numbers: Option<&Numbers>,
    ) -> Result<ScoreHead, AdapterError> {
        let spec = decoder.spec.scoring.as_ref();
        let spec = spec.map(|scoring| scoring.head(self.is_of_tokens));
        self.check(spec, decoder.spec.width)?;
        let start = Start {
            decoder,
            seed,
            numbers,
        };
        let width = decoder.spec.width;
        let layer = spec.and_then(|spec| spec.layer.as_ref());
        let layer = layer.map(|layer| self.layer(layer, &start)).transpose()?;
        let given = numbers.and_then(|numbers| numbers.get(&self.module));
        let (of_weight, of_bias) = given.map_or((None, None), |[weight, bias]| {
            (Some(&weight[..]), Some(&bias[..]))
        });
        let part = |part: &str| format!("{}.{part}", self.module);
        let weight = [self.labels, width];
        let weight = start.matrix(&self.module, &part("weight"), weight, of_weight);
        Ok(ScoreHead {
            module: self.module.clone(),
            layer,
            weight,
            bias: self.has_bias.then(|| {
                let bias = start.numbers_of(&part("bias"), &[self.labels], of_bias);
                start.vector(&bias.unwrap_or_else(|| vec![0.0; self.labels]))
            }),
        })
    }

    /// Refuses a head that this architecture does not have.
    fn check(&self, spec: Option<&ScoreSpec>, width: usize) -> Result<(), AdapterError> {
        let ours = match spec {
            Some(spec) => spec.module,
            // Files of causal models have one of two names.
            None if self.module == MODULES[1] => MODULES[1],
            None => MODULES[0],
        };
        let layer = spec.and_then(|spec| spec.layer.as_ref());
        let saved = self.layer.as_ref().map(|layer| &layer.tensors);
        let expected = layer.map(|layer| SavedLayer::of(layer, width).tensors);
        if ours == self.module && (saved.is_none() || saved == expected.as_ref()) {
            return Ok(());
        }
        let names = |tensors: Option<&Vec<(String, Vec<usize>)>>, module: &str| {
            let of_layer = tensors.into_iter().flatten();
            let of_layer = of_layer.map(|(name, shape)| format!("`{name}` {shape:?}"));
            let all: Vec<String> = of_layer.chain([format!("`{module}`")]).collect();
            all.join(", ")
        };
        Err(AdapterError::Score {
            message: format!(
                "the adapter's head is {}, the base's architecture has {}",
                names(saved, &self.module),
                names(expected.as_ref(), ours)
            ),
            hint: "give the base that it was trained on with `--base`",
        })
    }

    /// Makes the layer before the scores: with the numbers given or those of the checkpoint. One
    /// that trains and is in neither is drawn.
    fn layer(&self, spec: &ScoreLayerSpec, start: &Start) -> Result<ScoreLayer, AdapterError> {
        let width = start.decoder.spec.width;
        let trains = self.layer.is_some();
        for (name, shape) in spec.tensors(width) {
            if start.numbers_of(&name, &shape, None).is_none() && !trains {
                return Err(AdapterError::Score {
                    message: format!(
                        "scores go through `{name}`, which neither the adapter nor the base has"
                    ),
                    hint: "give the base that it was trained on with `--base`, or train the \
                        adapter anew: it then brings the layer",
                });
            }
        }
        let vector = |name: String, otherwise: f32| {
            let numbers = start.numbers_of(&name, &[width], None);
            start.vector(&numbers.unwrap_or_else(|| vec![otherwise; width]))
        };
        let norm = spec.norm.map(|(module, has_bias)| {
            let norm = Norm {
                weight: vector(format!("{module}.weight"), 1.0),
                bias: has_bias.then(|| vector(format!("{module}.bias"), 0.0)),
                centers: true,
                is_fixed: false,
                epsilon: start.decoder.spec.norm_epsilon,
                offset: 0.0,
                trains,
            };
            (module.to_owned(), norm)
        });
        let weight = format!("{}.weight", spec.dense);
        Ok(ScoreLayer {
            module: spec.dense.to_owned(),
            weight: start.matrix(spec.dense, &weight, [width, width], None),
            bias: spec
                .has_bias
                .then(|| vector(format!("{}.bias", spec.dense), 0.0)),
            activation: spec.activation,
            norm,
            trains,
        })
    }
}

/// What the numbers of a head start from.
struct Start<'a> {
    decoder: &'a Decoder,
    seed: u64,
    numbers: Option<&'a Numbers>,
}

impl Start<'_> {
    /// Returns the numbers of a tensor: those given, of the adapter, or of the checkpoint.
    fn numbers_of(&self, name: &str, shape: &[usize], given: Option<&[f32]>) -> Option<Vec<f32>> {
        let of_adapter = || Some(&self.numbers?.get(name)?[0][..]);
        let of_base = || self.decoder.stored_scores().get(name, shape);
        let found = given.or_else(of_adapter).or_else(of_base);
        found.map(<[f32]>::to_vec)
    }

    fn matrix(
        &self,
        module: &str,
        name: &str,
        shape: [usize; 2],
        given: Option<&[f32]>,
    ) -> Tensor<2> {
        let drawn = || {
            let drawn = initial_normal(self.seed, module, shape[0] * shape[1]);
            drawn.into_iter().map(|x| INITIAL_DEVIATION * x).collect()
        };
        let numbers = self.numbers_of(name, &shape, given);
        Tensor::from_data(
            TensorData::new(numbers.unwrap_or_else(drawn), shape),
            (&self.decoder.device(), DType::F32),
        )
    }

    fn vector(&self, numbers: &[f32]) -> Tensor<1> {
        let device = self.decoder.device();
        Tensor::from_data(TensorData::from(numbers), (&device, DType::F32))
    }
}

/// A layer before the map to scores, as an adapter saves it.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedLayer {
    /// The module that holds it.
    pub module: String,
    /// Its tensors with their shapes, by name.
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl SavedLayer {
    /// Returns the layer of an architecture in a model of this width.
    pub fn of(spec: &ScoreLayerSpec, width: usize) -> Self {
        let mut tensors = spec.tensors(width);
        tensors.sort();
        Self {
            module: spec.module.to_owned(),
            tensors,
        }
    }

    /// Returns the layer that a file with these tensors has.
    pub(super) fn among(tensors: impl Iterator<Item = (String, Vec<usize>)>) -> Option<Self> {
        let place = |name: &str| {
            let is_in = |part: &str| name.starts_with(part) || name.contains(&format!(".{part}"));
            LAYERS.iter().find(|(part, _)| is_in(part))
        };
        let mut found: Vec<_> = tensors.filter(|(name, _)| place(name).is_some()).collect();
        found.sort();
        let (_, module) = place(&found.first()?.0)?;
        Some(Self {
            module: (*module).to_owned(),
            tensors: found,
        })
    }
}
