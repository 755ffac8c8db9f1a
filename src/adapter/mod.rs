//! Low-rank adapters: their target modules, how they are attached, and PEFT's files.

mod attach;
mod experts;
pub mod merge;
mod module_names;
mod new_tokens;
mod numbers;
pub mod peft;
mod pissa;
mod score;
mod singular;
pub mod singular_values;
mod table_weights;
mod tables;
mod target;

use crate::fault::{Exit, Explain, Fault};
use crate::files;
use crate::model::{LinearSpec, ModelError};
use crate::terms::AdapterVector;

pub use attach::{attach, attach_scores, tensors};
pub use numbers::Numbers;
pub use pissa::Extraction;
pub use score::{LABELS, SavedLayer, ScoreConfig};
pub use table_weights::check_bases;
pub use tables::{TablePart, TableTarget, Tables};
pub use target::{Target, Targets};

/// The config of an adapter, as PEFT's `LoraConfig`.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own in PEFT's file"
)]
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of modules that no pattern matches.
    pub rank: usize,
    /// alpha of modules that no pattern matches.
    pub alpha: f64,
    /// Dropout probability of an adapter's input features in training.
    pub dropout: f64,
    /// The projections that get an adapter.
    pub targets: Targets,
    /// Parameters of all experts of a layer that get an adapter too, such as
    /// `mlp.experts.gate_up_proj`.
    pub target_parameters: Vec<String>,
    /// Whether the scale is alpha / sqrt(r), arXiv:2312.03732, in place of alpha / r.
    pub use_rslora: bool,
    /// Ranks by pattern; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// alphas by pattern; the first that matches counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether a new adapter leaves the base as it is (B zero); otherwise B is drawn as A is.
    pub init_lora_weights: bool,
    /// Whether a new adapter starts as the principal part of its weight, which is subtracted from
    /// the weight: `PiSSA`, arXiv:2404.02948.
    pub is_principal: bool,
    /// The vector of each adapter beside A and B.
    pub vector: Option<AdapterVector>,
    /// The parts of embedding and head that train too.
    pub tables: Tables,
    /// Whether hidden rows are its result, so that it belongs to the model without a head.
    pub is_of_features: bool,
    /// The head that scores texts or tokens in place of the vocabulary's.
    pub score: Option<ScoreConfig>,
}

impl LoraConfig {
    /// Makes a plain adapter on every projection, without dropout.
    pub fn all_linear(rank: usize, alpha: f64) -> Self {
        Self {
            rank,
            alpha,
            dropout: 0.0,
            targets: Targets::all_linear(),
            target_parameters: Vec::new(),
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            init_lora_weights: true,
            is_principal: false,
            vector: None,
            tables: Tables::NONE,
            is_of_features: false,
            score: None,
        }
    }

    /// Whether each adapter has this vector.
    pub fn has(&self, vector: AdapterVector) -> bool {
        self.vector == Some(vector)
    }

    /// Refuses vectors where they are not supported: on embedding and head, and on routed experts,
    /// where PEFT has none either.
    ///
    /// # Errors
    /// There is such a module; see also [`LoraConfig::resolve`].
    pub fn check_vector(&self, modules: &[LinearSpec]) -> Result<(), AdapterError> {
        let Some(vector) = self.vector else {
            return Ok(());
        };
        let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
        let is_table = |module: &str| {
            modules
                .iter()
                .any(|linear| linear.name == module && linear.is_table())
        };
        let is_one = |target: &&Target| {
            is_table(&target.module) || experts::Routed::of(&target.module).is_some()
        };
        match self.resolve(&names)?.iter().find(is_one) {
            None => Ok(()),
            Some(target) => Err(AdapterError::Vector {
                vector,
                module: target.module.clone(),
            }),
        }
    }

    /// Refuses to start as the principal part of a module that is not a single matrix of a layer,
    /// or that has fewer singular values than the rank.
    ///
    /// # Errors
    /// There is such a module; see also [`LoraConfig::resolve`].
    pub fn check_principal(&self, modules: &[LinearSpec]) -> Result<(), AdapterError> {
        if !self.is_principal {
            return Ok(());
        }
        let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
        for target in self.resolve(&names)? {
            let Some(linear) = modules.iter().find(|linear| linear.name == target.module) else {
                continue;
            };
            let (module, values) = (&target.module, linear.inputs.min(linear.outputs));
            if linear.is_table() || !linear.is_whole() || experts::Routed::of(module).is_some() {
                return Err(AdapterError::Principal {
                    message: format!("`pissa` does not go with an adapter of `{module}` yet"),
                });
            }
            if target.rank > values {
                let message = format!(
                    "`pissa` of rank {}, and `{module}` has {values} singular values",
                    target.rank
                );
                return Err(AdapterError::Principal { message });
            }
        }
        Ok(())
    }

    /// Returns the highest rank of any projection.
    pub fn largest_rank(&self) -> usize {
        self.rank_pattern
            .iter()
            .map(|(_, rank)| *rank)
            .chain([self.rank])
            .max()
            .unwrap_or(self.rank)
    }
}

/// The error of an adapter that cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The base cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A safetensors file is damaged.
    #[error(transparent)]
    Safetensors(#[from] files::safetensors::SafetensorsError),
    /// A pattern is not a regular expression.
    #[error("`{pattern}` is not a valid regular expression: {reason}")]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// The parser's message.
        reason: String,
    },
    /// Patterns or names match no projection of the model.
    #[error(
        "adapter.{what}: no projection of the model matches {}, it has {known}",
        unmatched.join(", ")
    )]
    NoMatch {
        /// The recipe's key.
        what: &'static str,
        /// The patterns or names as written.
        unmatched: Vec<String>,
        /// Last parts of the projections' names.
        known: String,
    },
    /// A table cannot be trained as requested.
    #[error("adapter.{key}: {message}")]
    Table {
        /// The recipe's key.
        key: &'static str,
        /// The problem, with both sides of a mismatch.
        message: String,
        /// The next step.
        hint: &'static str,
    },
    /// Two adapters change a table that one of them replaces.
    #[error("two adapters change `{module}`, and one of them brings a table or rows in its place")]
    TwoTables {
        /// The module.
        module: String,
    },
    /// The adapter contains a table that differs from the base's, where it cannot be used.
    #[error("the adapter comes with a table `{module}` that is not this base's")]
    OtherTable {
        /// The module.
        module: String,
    },
    /// `adapter_config.json` asks for something that is not supported.
    #[error("{place}: `{key}` is `{value}`, which is not supported yet")]
    Unsupported {
        /// The file.
        place: String,
        /// Its key.
        key: String,
        /// Its value.
        value: String,
        /// The reason and the next step, where there is more to say.
        hint: Option<String>,
    },
    /// A file that does not hold a single adapter with its numbers.
    #[error("{place}: {message}")]
    Mixed {
        /// The file.
        place: String,
        /// The problem, with both sides of a mismatch.
        message: String,
        /// The next step.
        hint: String,
    },
    /// An adapter of mlx-lm, which has names and a config of its own.
    #[error("`{folder}` is an adapter of mlx-lm, expected one in PEFT's format")]
    OfMlx {
        /// The folder.
        folder: String,
    },
    /// `adapter_config.json` is not valid.
    #[error("{place}: {message}")]
    Config {
        /// The file.
        place: String,
        /// The problem, with both sides of a mismatch.
        message: String,
    },
    /// A vector on a module that does not support it.
    #[error("adapter.{} does not go with an adapter of `{module}` yet", vector.key())]
    Vector {
        /// The vector.
        vector: AdapterVector,
        /// The module.
        module: String,
    },
    /// An adapter that cannot start as the principal part of its weight.
    #[error("adapter.init_lora_weights: {message}")]
    Principal {
        /// The problem, with both sides of a mismatch.
        message: String,
    },
    /// A score head that does not go with the base.
    #[error("{message}")]
    Score {
        /// The problem, with both sides of a mismatch.
        message: String,
        /// The next step.
        hint: &'static str,
    },
    /// A format cannot hold an adapter's vector.
    #[error("{format} has matrices A and B only, this adapter has `{}`", vector.name())]
    NoPlace {
        /// The owner of the format.
        format: &'static str,
        /// The vector.
        vector: AdapterVector,
    },
    /// An adapter that cannot be merged.
    #[error("adapter `{folder}` cannot be merged: {reason}")]
    Unmergeable {
        /// The adapter.
        folder: String,
        /// The problem, with both sides of a mismatch.
        reason: String,
    },
    /// The tensors do not belong to the adapter that the config describes.
    #[error("the tensors of `{place}` are not those that its adapter_config.json describes for \
        this model: {} faults", faults.len())]
    Tensors {
        /// The file.
        place: String,
        /// One line per tensor.
        faults: Vec<String>,
        /// The likely cause, and the next step.
        hint: String,
    },
}

impl Explain for AdapterError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Model(error) => error.exit(),
            Self::Safetensors(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Safetensors(error) => error.hint(),
            Self::NoMatch { what: "rank_pattern" | "alpha_pattern", .. } => {
                Some("a pattern matches a whole module name or what follows a dot in it".into())
            }
            Self::NoMatch { what: "target_parameters", .. } => {
                Some("parameters of routed experts are `experts.gate_up_proj` and \
                    `experts.down_proj`".into())
            }
            Self::NoMatch { .. } => {
                Some("use `all-linear`, names from that list, or a regular expression that matches \
                    whole module names".into())
            }
            Self::Table { hint, .. } | Self::Score { hint, .. } => Some((*hint).to_owned()),
            Self::TwoTables { .. } => Some("merge them one after the other".into()),
            Self::OtherTable { .. } => Some(
                "merge this adapter alone into the base with `rankine merge`, which puts the table \
                there, and go on from the merged model"
                    .into(),
            ),
            Self::Vector { vector, .. } => {
                Some(format!("leave the module out, or remove `{}`", vector.key()))
            }
            Self::Principal { .. } => Some("leave the module out, lower `r`, or set \
                `init_lora_weights: true`".into()),
            Self::NoPlace { vector: AdapterVector::Magnitude, .. } => {
                Some("merge the adapter with `rankine merge`, and export the merged model".into())
            }
            Self::NoPlace { vector: AdapterVector::Bias, .. } => {
                Some("give the adapter to PEFT, or train one without `lora_bias`".into())
            }
            Self::Tensors { hint, .. } | Self::Mixed { hint, .. } => Some(hint.clone()),
            Self::Unsupported { hint, .. } => hint.clone(),
            Self::OfMlx { .. } => Some(
                "name the run or the PEFT folder that it was exported from: mlx-lm's format is \
                written, with `rankine export --to mlx`, and not read"
                    .into(),
            ),
            _ => None,
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let head = Fault {
            place: None,
            message: self.to_string(),
            hint: self.hint(),
        };
        match self {
            Self::Model(error) => error.faults(),
            Self::Tensors { faults, .. } => files::listed(faults)
                .into_iter()
                .map(Fault::new)
                .chain([head])
                .collect(),
            _ => vec![head],
        }
    }
}
