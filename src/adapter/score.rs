//! The score head of an adapter, as PEFT saves it for a model that classifies: the module `score`
//! among `modules_to_save`, trained whole, and `task_type` in place of a language model's. What its
//! scores mean stands in a file beside the adapter, because PEFT has no place for it.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Map, Value, json};

use super::AdapterError;
use super::numbers::Numbers;
use crate::files::{JSON_BYTES, read_text_up_to};
use crate::model::Decoder;
use crate::nn::lora::initial_normal;
use crate::nn::score_head::ScoreHead;
use crate::terms::{ProblemType, Term};

/// The file beside an adapter that says what its scores mean. It has the keywords that
/// `AutoModelForSequenceClassification.from_pretrained` takes.
pub const LABELS: &str = "labels.json";
/// Standard deviation of a fresh head, the `initializer_range` of most configs.
const INITIAL_DEVIATION: f32 = 0.02;
/// Modules that transformers calls a score head, by its architectures.
pub(super) const MODULES: [&str; 2] = ["score", "classifier"];
/// What stands between the module and its tensors, by the way in which it was saved.
pub(super) const SCORE_COPIES: [&str; 2] = ["", "modules_to_save."];

/// A score head in an adapter's config.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreConfig {
    /// The module: `score`, or `classifier` where the architecture calls it that.
    pub module: String,
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
        self.labels * (width + usize::from(self.has_bias))
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

    /// Adds what [`LABELS`] of a folder tells, if it is there.
    ///
    /// # Errors
    /// The file cannot be read, or does not fit the number of scores.
    pub(super) fn with_labels_of(self, folder: &Path) -> Result<Self, AdapterError> {
        let path = folder.join(LABELS);
        if !path.exists() {
            return Ok(self);
        }
        let fault = |message: String| AdapterError::Config {
            place: path.display().to_string(),
            message,
        };
        let text = read_text_up_to(&path, JSON_BYTES)?;
        let said: Value = serde_json::from_str(&text)
            .map_err(|error| fault(format!("not valid JSON: {error}")))?;
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

    /// Makes the head: with the numbers given, or drawn from N(0, 0.02²) with a bias of 0.
    pub(super) fn head(
        &self,
        decoder: &Decoder,
        seed: u64,
        numbers: Option<&Numbers>,
    ) -> ScoreHead {
        let (device, width) = (decoder.device(), decoder.spec.width);
        let given = numbers.and_then(|numbers| numbers.get(&self.module));
        let weight = given.map_or_else(
            || {
                let drawn = initial_normal(seed, &self.module, self.labels * width);
                drawn.into_iter().map(|x| INITIAL_DEVIATION * x).collect()
            },
            |[weight, _]| weight.clone(),
        );
        let bias = given.map_or_else(|| vec![0.0; self.labels], |[_, bias]| bias.clone());
        let vector = |values: Vec<f32>, device: &Device| {
            Tensor::<1>::from_data(TensorData::from(&values[..]), (device, DType::F32))
        };
        ScoreHead {
            module: self.module.clone(),
            weight: Tensor::from_data(
                TensorData::new(weight, [self.labels, width]),
                (&device, DType::F32),
            ),
            bias: self.has_bias.then(|| vector(bias, &device)),
        }
    }
}
