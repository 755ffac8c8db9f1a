//! Low-rank adapters: which projections they go to, how they are attached, and PEFT's files.

mod attach;
mod experts;
pub mod merge;
mod new_tokens;
pub mod peft;
mod pissa;
mod singular;
pub mod singular_values;
mod tables;
mod target;

use crate::fault::{Exit, Explain, Fault};
use crate::files;
use crate::model::LinearSpec;
use crate::terms::AdapterVector;

pub use attach::{Numbers, attach, tensors};
pub use pissa::Extraction;
pub use tables::{TablePart, TableTarget, Tables, check_bases};
pub use target::{Target, Targets};

/// What an adapter is, as PEFT's `LoraConfig` has it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank where no pattern says otherwise.
    pub rank: usize,
    /// alpha where no pattern says otherwise.
    pub alpha: f64,
    /// Share of an adapter's input features that training drops.
    pub dropout: f64,
    /// The projections that get an adapter.
    pub targets: Targets,
    /// Parameters of all experts of a layer that get one too, such as `mlp.experts.gate_up_proj`.
    pub target_parameters: Vec<String>,
    /// Scale by alpha / sqrt(r), arXiv:2312.03732, in place of alpha / r.
    pub use_rslora: bool,
    /// Ranks by pattern; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// alphas by pattern; the first that matches counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether a fresh adapter leaves the base as it is (B zero); otherwise B is drawn as A is.
    pub init_lora_weights: bool,
    /// Whether a fresh adapter is the principal part of its weight, which is taken out of it:
    /// `PiSSA`, arXiv:2404.02948.
    pub is_principal: bool,
    /// What each adapter has beside A and B.
    pub vector: Option<AdapterVector>,
    /// What of embedding and head trains beside.
    pub tables: Tables,
}

impl LoraConfig {
    /// A plain adapter on every projection, without dropout.
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
        }
    }

    /// Whether each adapter has this vector.
    pub fn has(&self, vector: AdapterVector) -> bool {
        self.vector == Some(vector)
    }

    /// Refuses vectors where they are not built: at embedding and head, and at experts that a
    /// router chooses, where PEFT has none either.
    ///
    /// # Errors
    /// There is such a module. And see [`LoraConfig::resolve`].
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

    /// Refuses to start as the principal part of what is no single matrix of a layer, or has fewer
    /// singular values.
    ///
    /// # Errors
    /// There is such a module. And see [`LoraConfig::resolve`].
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
                    message: format!(
                        "`pissa` does not go with an \
                adapter of `{module}` yet"
                    ),
                });
            }
            if target.rank > values {
                let message = format!(
                    "`pissa` of rank {}, and `{module}` has {values} singular \
                values",
                    target.rank
                );
                return Err(AdapterError::Principal { message });
            }
        }
        Ok(())
    }

    /// The highest rank of any projection.
    pub fn largest_rank(&self) -> usize {
        self.rank_pattern
            .iter()
            .map(|(_, rank)| *rank)
            .chain([self.rank])
            .max()
            .unwrap_or(self.rank)
    }
}

/// An adapter that cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A safetensors file is damaged.
    #[error(transparent)]
    Safetensors(#[from] files::safetensors::SafetensorsError),
    /// A pattern is not a regular expression.
    #[error("`{pattern}` is not a valid regular expression: {reason}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What the parser said.
        reason: String,
    },
    /// Patterns or names match no projection of the model.
    #[error("adapter.{what}: no projection of the model matches {}, it has {known}", unmatched.join(", "))]
    NoMatch {
        /// The recipe's key.
        what: &'static str,
        /// As written.
        unmatched: Vec<String>,
        /// Last parts of the projections' names.
        known: String,
    },
    /// A table cannot be trained as it is asked for.
    #[error("adapter.{key}: {message}")]
    Table {
        /// The recipe's key.
        key: &'static str,
        /// Both sides.
        message: String,
        /// The next step.
        hint: &'static str,
    },
    /// A table that one adapter replaces is changed by another one too.
    #[error("two adapters change `{module}`, and one of them brings a table or rows in its place")]
    TwoTables {
        /// The module.
        module: String,
    },
    /// The adapter comes with a table that is not the base's, where only the base's can be.
    #[error("the adapter comes with a table `{module}` that is not this base's")]
    OtherTable {
        /// The module.
        module: String,
    },
    /// `adapter_config.json` asks for something that is not built.
    #[error("{place}: `{key}` is `{value}`, which is not supported yet")]
    Unsupported {
        /// The file.
        place: String,
        /// Its key.
        key: String,
        /// Its value.
        value: String,
        /// Why, and the next step, where there is more to say.
        hint: Option<String>,
    },
    /// A file that is no single adapter with its numbers.
    #[error("{place}: {message}")]
    Mixed {
        /// The file.
        place: String,
        /// Both sides of what does not fit.
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
        /// Both sides of what does not fit.
        message: String,
    },
    /// A vector where none is built.
    #[error("adapter.{} does not go with an adapter of `{module}` yet", vector.key())]
    Vector {
        /// The vector.
        vector: AdapterVector,
        /// The module.
        module: String,
    },
    /// An adapter that cannot start as a part of its weight.
    #[error("adapter.init_lora_weights: {message}")]
    Principal {
        /// Both sides.
        message: String,
    },
    /// A format has no place for an adapter's vector.
    #[error("{format} has matrices A and B only, this adapter has `{}`", vector.name())]
    NoPlace {
        /// Whose format.
        format: &'static str,
        /// The vector.
        vector: AdapterVector,
    },
    /// An adapter that cannot be merged.
    #[error("adapter `{folder}` cannot be merged: {reason}")]
    Unmergeable {
        /// The adapter.
        folder: String,
        /// Both sides of what does not go together.
        reason: String,
    },
    /// The tensors are not those of the adapter that the config describes.
    #[error("the tensors of `{place}` are not those that its adapter_config.json describes for \
    this model: {} faults", faults.len())]
    Tensors {
        /// The file.
        place: String,
        /// One line a tensor.
        faults: Vec<String>,
        /// What it looks like, and the next step.
        hint: String,
    },
}

impl Explain for AdapterError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Safetensors(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Safetensors(error) => error.hint(),
            Self::NoMatch { what: "rank_pattern" | "alpha_pattern", .. } => {
                Some("a pattern matches a whole module name or what follows a dot in it".into())
            }
            Self::NoMatch { what: "target_parameters", .. } => {
                Some("parameters of routed experts are `mlp.experts.gate_up_proj` and \
                `mlp.experts.down_proj`".into())
            }
            Self::NoMatch { .. } => {
                Some("use `all-linear`, names from that list, or a regular expression that matches \
                whole module names".into())
            }
            Self::Table { hint, .. } => Some((*hint).to_owned()),
            Self::TwoTables { .. } => Some("merge them one after the other".into()),
            Self::OtherTable { .. } => Some(
                "merge this adapter alone into the base with `rankine merge`, which puts the table \
                there, and go on from the merged model"
                    .into(),
            ),
            Self::Vector { vector, .. } => Some(format!("leave the module out, or remove `{}`", vector.key())),
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
            Self::Tensors { faults, .. } => files::listed(faults)
                .into_iter()
                .map(Fault::new)
                .chain([head])
                .collect(),
            _ => vec![head],
        }
    }
}
