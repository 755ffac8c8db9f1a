//! Errors of a tokenizer and its files.

use std::path::PathBuf;

use crate::fault::{Exit, Explain};
use crate::files;

/// Error while a tokenizer is opened or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// A file exists and cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The folder has no `tokenizer.json`.
    #[error("`{folder}` holds no `tokenizer.json`{instead}")]
    Missing {
        /// The folder of the base model.
        folder: PathBuf,
        /// Text on a tokenizer of another form in the folder, which ends the message.
        instead: &'static str,
    },
    /// A file does not have the content that its name implies.
    #[error("`{path}` is not {expected}: {cause}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
        /// The parse error.
        cause: String,
    },
    /// A value of a configuration file has another type.
    #[error("`{key}` in `{path}` is {found}, expected {expected}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value in the file.
        found: String,
        /// The expected content.
        expected: &'static str,
    },
    /// A file gives a token the id of another token.
    #[error("`{path}` gives `{token}` the id {id}, which is that of `{other}`")]
    Collision {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// The id.
        id: u32,
        /// The token that has this id in `tokenizer.json`.
        other: String,
    },
    /// A text cannot be tokenized.
    #[error("a text of {bytes} bytes cannot be tokenized: {cause}")]
    Encode {
        /// Size of the text.
        bytes: usize,
        /// The tokenizer's error message.
        cause: String,
    },
    /// The tokenizers crate panicked on a text.
    #[error("a text of {bytes} bytes cannot be tokenized: {cause}")]
    Panicked {
        /// Size of the text.
        bytes: usize,
        /// The panic message.
        cause: String,
    },
    /// Tokens cannot be decoded.
    #[error("{tokens} tokens cannot be turned into text: {cause}")]
    Decode {
        /// Number of tokens.
        tokens: usize,
        /// The tokenizer's error message.
        cause: String,
    },
}

impl Explain for TokenizeError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Missing { instead: "", .. } => {
                Some("take the base's `tokenizer.json` along with its weights".to_owned())
            }
            Self::Missing { .. } => Some(
                "convert it once with transformers: \
                `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
                    .to_owned(),
            ),
            Self::Broken { .. } => {
                Some("fetch the file again from where the base comes from".to_owned())
            }
            Self::Value { .. } => Some("correct the value, or fetch the file again".to_owned()),
            Self::Collision { .. } => Some(
                "take tokenizer.json and the files next to it from one place, or remove the file \
                that does not belong there"
                    .to_owned(),
            ),
            Self::Encode { .. } | Self::Panicked { .. } | Self::Decode { .. } => None,
        }
    }
}
