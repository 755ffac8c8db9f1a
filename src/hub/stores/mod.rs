//! Models that Ollama and LM Studio keep on this machine, by the names that those programs use:
//! `ollama:model:tag`, `lmstudio:publisher/model`. Their folders are only read.

mod error;
mod folders;
mod lm_studio;
mod ollama;

use std::path::PathBuf;

pub use error::StoreError;
pub use folders::StoreFolders;

/// Prefix of a name in Ollama's store.
const OLLAMA: &str = "ollama:";
/// Prefix of a name in LM Studio's folder.
const LM_STUDIO: &str = "lmstudio:";

/// A model in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// Its name with the prefix, such as `ollama:model:tag`.
    pub name: String,
    /// Its GGUF file; of several the first one.
    pub path: PathBuf,
    /// The SHA-256 of the file by which Ollama knows it, such as `sha256:` and its digits.
    pub digest: Option<String>,
    /// What the store has beside the model and is not read.
    pub notes: Vec<String>,
}

/// Whether a name is that of a model in a store.
pub fn is_stored_name(name: &str) -> bool {
    name.starts_with(OLLAMA) || name.starts_with(LM_STUDIO)
}

/// Finds the model of a name in the store that its prefix tells; `None` if it has no such prefix.
///
/// # Errors
/// The model is not there, or what the store says of it is wrong.
pub fn find_stored(name: &str) -> Option<Result<StoredModel, StoreError>> {
    find_in(name, &StoreFolders::read())
}

/// Finds a model like [`find_stored`] in these folders.
///
/// # Errors
/// As for [`find_stored`].
pub fn find_in(name: &str, folders: &StoreFolders) -> Option<Result<StoredModel, StoreError>> {
    let of_ollama = name.strip_prefix(OLLAMA);
    let of_ollama = of_ollama.map(|rest| ollama::find(name, rest, &folders.ollama));
    of_ollama.or_else(|| {
        let rest = name.strip_prefix(LM_STUDIO)?;
        Some(lm_studio::find(name, rest, &folders.lm_studio))
    })
}
