//! Low-rank adapters: which projections they go to, how they are attached, and PEFT's files.

mod attach;
pub mod merge;
pub mod peft;
mod target;

use crate::fault::{Exit, Explain, Fault};
use crate::files;
use crate::terms::AdapterVector;

pub use attach::{Numbers, Values, attach, tensors};
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
    /// Scale by alpha / sqrt(r), arXiv:2312.03732, in place of alpha / r.
    pub use_rslora: bool,
    /// Ranks by pattern; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// alphas by pattern; the first that matches counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether a fresh adapter leaves the base as it is (B zero); otherwise B is drawn as A is.
    pub init_lora_weights: bool,
    /// What each adapter has beside A and B.
    pub vector: Option<AdapterVector>,
}

impl LoraConfig {
    /// A plain adapter on every projection, without dropout.
    pub fn all_linear(rank: usize, alpha: f64) -> Self {
        Self {
            rank,
            alpha,
            dropout: 0.0,
            targets: Targets::all_linear(),
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            init_lora_weights: true,
            vector: None,
        }
    }

    /// Whether each adapter has this vector.
    pub fn has(&self, vector: AdapterVector) -> bool {
        self.vector == Some(vector)
    }

    /// The highest rank of any projection.
    pub fn largest_rank(&self) -> usize {
        self.rank_pattern.iter().map(|(_, rank)| *rank).chain([self.rank]).max().unwrap_or(self.rank)
    }
}

/// An adapter that cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A safetensors file is damaged.
    #[error(transparent)]
    Safetensors(#[from] files::safetensors::Error),
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
    /// `adapter_config.json` asks for something that is not built.
    #[error("{place}: `{key}` is `{value}`, which is not supported yet")]
    Unsupported {
        /// The file.
        place: String,
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// `adapter_config.json` is not valid.
    #[error("{place}: {message}")]
    Config {
        /// The file.
        place: String,
        /// Both sides of what does not fit.
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
    #[error("the tensors of `{place}` are not those that its adapter_config.json describes for this model: {} faults", faults.len())]
    Tensors {
        /// The file.
        place: String,
        /// One line a tensor.
        faults: Vec<String>,
    },
}

impl Explain for Error {
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
            Self::NoMatch { .. } => {
                Some("use `all-linear`, names from that list, or a regular expression that matches whole module names".into())
            }
            Self::NoPlace { vector: AdapterVector::Magnitude, .. } => {
                Some("merge the adapter with `rankine merge`, and export the merged model".into())
            }
            Self::NoPlace { vector: AdapterVector::Bias, .. } => {
                Some("give the adapter to PEFT, or train one without `lora_bias`".into())
            }
            Self::Tensors { .. } => Some("the adapter was trained on another base, or its files were mixed up".into()),
            _ => None,
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let head = Fault { place: None, message: self.to_string(), hint: self.hint() };
        match self {
            Self::Tensors { faults, .. } => files::listed(faults).into_iter().map(Fault::new).chain([head]).collect(),
            _ => vec![head],
        }
    }
}
