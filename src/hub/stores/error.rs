//! Why a model in a store is not used.

use std::path::PathBuf;

use super::OLLAMA;
use crate::fault::{Exit, Explain};
use crate::files::gguf::GgufFileError;
use crate::files::{FileError, listed};

/// Failure to find a model of Ollama's or LM Studio's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the store cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Files of a split model are missing.
    #[error(transparent)]
    Split(#[from] GgufFileError),
    /// A text that is no name.
    #[error("`{name}` is not a name of a model: {reason}")]
    Name {
        /// The name as it was given.
        name: String,
        /// What is wrong, and how a name is written.
        reason: &'static str,
    },
    /// No folder of the store exists.
    #[error("`{name}`: {store} has no models here; looked in {}", shown(looked))]
    NoStore {
        /// The name as it was given.
        name: String,
        /// The program.
        store: &'static str,
        /// The folders in which models were looked up.
        looked: Vec<PathBuf>,
    },
    /// The store has no such model.
    #[error("`{name}` is not in {}; it has {}", shown(looked), list(found))]
    Missing {
        /// The name as it was given.
        name: String,
        /// The folders that exist.
        looked: Vec<PathBuf>,
        /// Names of what is there.
        found: Vec<String>,
    },
    /// Several files go by the name.
    #[error("`{name}` stands for {} files, expected one: {}", found.len(), list(found))]
    Several {
        /// The name as it was given.
        name: String,
        /// Names of the files, or their paths.
        found: Vec<String>,
        /// How one of them is named.
        hint: String,
    },
    /// A manifest says something impossible, or something that is not read.
    #[error("`{name}`: its manifest `{path}` {reason}")]
    Manifest {
        /// The name as it was given.
        name: String,
        /// The manifest.
        path: PathBuf,
        /// What is wrong, with both sides.
        reason: String,
    },
    /// The file of a model is missing, or not whole.
    #[error("`{name}`: its file `{path}` {reason}")]
    Blob {
        /// The name as it was given.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong, with both sides.
        reason: String,
    },
    /// The store has something else than a GGUF file under this name.
    #[error("`{name}` {reason}")]
    NoGguf {
        /// The name as it was given.
        name: String,
        /// What it is.
        reason: String,
        /// What to use in its place.
        hint: String,
    },
}

fn shown(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|path| format!("`{}`", path.display()));
    paths.collect::<Vec<_>>().join(", ")
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    listed(&names).join(", ")
}

/// Returns the command that fetches a model, if it is one of Ollama's.
fn pull(name: &str) -> Option<String> {
    let name = name.strip_prefix(OLLAMA)?;
    Some(format!("fetch it with `ollama pull {name}`"))
}

impl Explain for StoreError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Split(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        let download = || "download it in LM Studio".to_owned();
        match self {
            Self::File(error) => error.hint().or_else(|| {
                Some("fetch the model again, or name the GGUF file itself as the base".to_owned())
            }),
            Self::Split(error) => error.hint(),
            Self::Name { name, .. } if name.starts_with(OLLAMA) => {
                Some("`ollama list` shows the names".to_owned())
            }
            Self::Name { .. } => Some("`lms ls` shows the names".to_owned()),
            Self::NoStore { name, .. } => Some(if name.starts_with(OLLAMA) {
                "set OLLAMA_MODELS to the folder with Ollama's `manifests` and `blobs`".to_owned()
            } else {
                "name the GGUF file itself as the base".to_owned()
            }),
            Self::Missing { name, .. } => Some(pull(name).unwrap_or_else(download)),
            Self::Manifest { name, .. } | Self::Blob { name, .. } => {
                pull(name).map(|pull| pull.replacen("it", "the model again", 1))
            }
            Self::Several { hint, .. } | Self::NoGguf { hint, .. } => Some(hint.clone()),
        }
    }
}
