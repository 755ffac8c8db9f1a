//! The plan of a run: a recipe with every value filled, the origin of each value, and everything
//! that it names looked up.
//!
//! [`resolve`] opens `config.json`, the tokenizer and Parquet footers, but no weights;
//! [`Plan::read_data`] and [`Plan::load_model`] load the parts.

mod adapter;
mod aim;
mod alike;
mod allowed;
mod base;
mod batches;
mod build;
mod chosen_device;
mod data_checks;
mod data_files;
mod deduplicate;
mod embedder;
mod embedding;
mod embeddings;
mod eval_sets;
mod eval_texts;
mod filled;
mod frames;
mod hub_data;
pub mod memory;
mod mixing;
mod notes;
mod objective;
mod output_dir;
mod overlap;
mod peak;
mod prompts;
mod quantization;
mod rates;
mod resolve;
mod rows;
mod sample;
mod score_sets;
mod scores;
mod selection;
mod shares;
mod sources;
mod teacher;
mod tokens;
mod training;

pub use adapter::Trains;
pub use allowed::Allowed;
pub use base::hub_id;
pub use deduplicate::Alike;
pub use eval_sets::{Comparison, Examined, Reading, Sheet};
pub use filled::{Origin, Setting};
pub use hub_data::{Snapshots, cached_files, requests};
pub use mixing::{Mixing, Share};
pub use notes::leftover_note;
pub use objective::Reference;
pub use peak::MemoryPlan;
pub use resolve::{Fetched, Plan, Resolved, now, resolve, resolve_on};
pub use rows::{ReferenceScores, RunData, TeacherTokens};
pub use score_sets::HeadScore;
pub use teacher::{Teacher, TeacherModel};
pub use tokens::{Vocabulary, tokenizer_files};

use crate::fault::{Exit, Explain, Fault};
use crate::{data, device, files, model, train};

/// A plan that cannot be made or carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The recipe has faults; all of them are in the list.
    #[error("{} in the recipe", count(faults.len()))]
    Faults {
        /// The faults, in the order of the recipe.
        faults: Vec<Fault>,
    },
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] data::CorpusError),
    /// Nothing is left to train on.
    #[error(transparent)]
    Split(#[from] data::SplitError),
    /// The rows are not fit for training.
    #[error("{message}")]
    Rows {
        /// What was found and what was expected.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// The run would need more memory than it may use.
    #[error("{message}")]
    Memory {
        /// The memory needed and allowed, with the parts of what is needed.
        message: String,
        /// The smallest change of the recipe that fits.
        hint: String,
    },
    /// A file of the tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] data::tokenize::TokenizeError),
    /// The base cannot be loaded.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// The adapter cannot be made.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::AdapterError),
    /// The checkpoint to continue from does not fit.
    #[error(transparent)]
    Train(#[from] train::TrainError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] device::DeviceError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
}

fn count(faults: usize) -> String {
    if faults == 1 {
        "1 fault".to_owned()
    } else {
        format!("{faults} faults")
    }
}

impl PlanError {
    fn inner(&self) -> Option<&dyn Explain> {
        match self {
            Self::Faults { .. } | Self::Rows { .. } | Self::Memory { .. } => None,
            Self::Data(error) => Some(error),
            Self::Split(error) => Some(error),
            Self::Tokenizer(error) => Some(error),
            Self::Model(error) => Some(error),
            Self::Adapter(error) => Some(error),
            Self::Train(error) => Some(error),
            Self::Device(error) => Some(error),
            Self::File(error) => Some(error),
        }
    }
}

impl Explain for PlanError {
    fn exit(&self) -> Exit {
        match self {
            Self::Memory { .. } => Exit::Memory,
            _ => self.inner().map_or(Exit::Input, Explain::exit),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Rows { hint, .. } | Self::Memory { hint, .. } => Some(hint.clone()),
            _ => self.inner()?.hint(),
        }
    }

    fn faults(&self) -> Vec<Fault> {
        match (self, self.inner()) {
            (Self::Faults { faults }, _) => faults.clone(),
            (_, Some(inner)) => inner.faults(),
            _ => vec![Fault {
                place: None,
                message: self.to_string(),
                hint: self.hint(),
            }],
        }
    }
}
