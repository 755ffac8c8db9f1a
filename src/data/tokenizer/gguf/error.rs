//! Why the tokenizer of a GGUF file is not read.

use std::path::PathBuf;

use crate::fault::{Exit, Explain};
use crate::files::gguf::GgufFileError;

/// Error while a tokenizer is read from the metadata of a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufTokenizerError {
    /// A value has another type.
    #[error(transparent)]
    File(#[from] GgufFileError),
    /// A kind of tokenizer that Rankine does not read from GGUF files.
    #[error("`{path}`: `{key}` is `{found}`, which is not read from GGUF files; known: {known}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The kind.
        found: String,
        /// Known kinds.
        known: &'static str,
    },
    /// The values contradict each other, or one is missing.
    #[error("`{path}`: {reason}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong, with both sides.
        reason: String,
    },
}

impl Explain for GgufTokenizerError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Unknown { .. } | Self::Broken { .. } => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Unknown { .. } => Some(
                "use the model's Hugging Face folder (config.json, *.safetensors, tokenizer.json) \
                as the base"
                    .to_owned(),
            ),
            Self::Broken { .. } => Some(
                "fetch the file again, or convert the model again with llama.cpp's \
                `convert_hf_to_gguf.py`"
                    .to_owned(),
            ),
        }
    }
}
