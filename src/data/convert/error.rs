//! Errors of a conversion.

use std::path::{Path, PathBuf};

use super::piece::counted;
use crate::data::read::error::TableError;
use crate::fault::{Exit, Explain, Fault};
use crate::files;

/// Maximum number of row errors that are printed one by one.
pub(super) const LISTED: usize = 10;

/// Error of a conversion; the output is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A Parquet file cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A whole file is not what its name or its first bytes imply.
    #[error("`{path}` {reason}")]
    Source {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
        /// The next step.
        hint: String,
    },
    /// More rows are invalid than may be left out.
    #[error(
        "{} cannot be converted, at most {allowed} may be left out",
        counted(*count as usize, "row")
    )]
    Rows {
        /// The first of these rows' errors.
        faults: Vec<Fault>,
        /// Number of invalid rows.
        count: u64,
        /// Number of rows that may be left out.
        allowed: u64,
    },
    /// The columns do not fit the requested format.
    #[error("{message}")]
    Columns {
        /// The requested format and the columns, in words.
        message: String,
        /// The next step.
        hint: String,
    },
    /// A signal ended the conversion.
    #[error("stopped, nothing was written")]
    Stopped,
}

impl ConvertError {
    pub(super) fn source(path: &Path, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Source {
            path: path.to_owned(),
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn columns(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Columns {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl Explain for ConvertError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Table(error) => error.exit(),
            Self::Stopped => Exit::Signal,
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Table(error) => error.hint(),
            Self::Source { hint, .. } | Self::Columns { hint, .. } => Some(hint.clone()),
            Self::Rows { count, .. } => Some(format!(
                "correct them, or leave them out: `rankine convert .. --max-dropped {count}`"
            )),
            Self::Stopped => None,
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let summary = Fault {
            place: None,
            message: self.to_string(),
            hint: self.hint(),
        };
        match self {
            Self::Rows { faults, .. } => faults.iter().cloned().chain([summary]).collect(),
            Self::Table(error) => error.faults(),
            _ => vec![summary],
        }
    }
}
