//! Errors while a corpus is opened.

use crate::data::example::error::EncodeError;
use crate::data::read::error::{RowLocation, TableError};
use crate::fault::{Exit, Explain};
use crate::files;

/// Error while a corpus is opened.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A data file cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// An example cannot be encoded, for a reason that other rows will share.
    #[error("{place}, column `{column}`: {said}")]
    Encode {
        /// The row.
        place: RowLocation,
        /// Its main column in the file.
        column: String,
        /// The error message, with text of the row marked.
        said: String,
        /// The error itself.
        #[source]
        cause: Box<EncodeError>,
    },
    /// Encoding a row panicked.
    #[error("{place}: internal error: {said}")]
    Panicked {
        /// The row.
        place: RowLocation,
        /// The panic message.
        said: String,
    },
    /// The cache folder cannot be written.
    #[error("the token cache cannot be written: {cause}")]
    Cache {
        /// The file error.
        #[source]
        cause: files::FileError,
    },
    /// The environment variable for the size of the cache is not a size.
    #[error(
        "{} is `{found}`, expected a number of bytes, such as `5GB` or `20 GiB`",
        files::LIMIT
    )]
    Limit {
        /// Value of the variable.
        found: String,
    },
    /// More rows than an index can count.
    #[error("the datasets have more than {} rows", u32::MAX)]
    TooMany,
}

impl Explain for CorpusError {
    fn exit(&self) -> Exit {
        match self {
            Self::Table(error) => error.exit(),
            Self::Encode { cause, .. } => cause.exit(),
            Self::Panicked { .. } => Exit::Internal,
            Self::Cache { .. } => Exit::Io,
            Self::Limit { .. } | Self::TooMany => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Table(error) => error.hint(),
            Self::Encode { cause, .. } => cause.hint(),
            Self::Panicked { .. } => Some(
                "please report it with that row to the project's issues; without the row the \
                run goes on"
                    .into(),
            ),
            Self::Cache { .. } => Some(
                "set RANKINE_CACHE to a folder that can be written and has room, or `cache: run` \
                in the recipe to keep the tokens in the run's folder"
                    .into(),
            ),
            Self::Limit { .. } => Some("correct it, or unset it for 20 GB".into()),
            Self::TooMany => Some("train on fewer files at a time".into()),
        }
    }
}
