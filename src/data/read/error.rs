//! Errors of a Parquet file, each with the place of a row where it concerns one.

use std::path::PathBuf;

use super::cells;
use super::first_bytes::Content;
use super::likely::Meant;
use crate::fault::{Exit, Explain};
use crate::files;

/// Place of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowLocation {
    /// The file.
    pub path: PathBuf,
    /// Its row group, from 0.
    pub row_group: usize,
    /// The row in the file, from 0.
    pub row: u64,
    /// Whether the file was converted to Parquet, so that its row groups are not the user's.
    pub is_converted: bool,
}

impl RowLocation {
    /// Returns the place within the file in words.
    pub fn in_file(&self) -> String {
        if self.is_converted {
            format!("row {}", self.row)
        } else {
            format!("row group {}, row {}", self.row_group, self.row)
        }
    }
}

impl std::fmt::Display for RowLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`, {}", self.path.display(), self.in_file())
    }
}

/// A Parquet file that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The footer is missing or invalid.
    #[error("`{path}` is not a whole Parquet file: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reader's error.
        reason: String,
    },
    /// The file is of another kind.
    #[error("`{path}` is {}, expected a Parquet file", .content.describe())]
    Other {
        /// The file.
        path: PathBuf,
        /// Its kind.
        content: Content,
    },
    /// A needed column is not in the file.
    #[error("`{path}` has no column `{name}`, it has: {}", .found.join(", "))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name that the format knows.
        canonical: &'static str,
        /// The name that was looked for.
        name: String,
        /// All columns of the file.
        found: Vec<String>,
        /// The column that was probably meant.
        meant: Meant,
    },
    /// A needed column holds another type.
    #[error("column `{name}` of `{path}` holds {found}, expected {expected}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The column.
        name: String,
        /// Its type in words.
        found: String,
        /// The expected type in words.
        expected: &'static str,
    },
    /// The footer promises rows that cannot be read.
    #[error("{place}: the rows from here on cannot be read: {reason}")]
    Unreadable {
        /// The first row of the batch.
        place: RowLocation,
        /// The reader's error.
        reason: String,
    },
    /// A cell cannot be used.
    #[error("{place}, column `{column}`: {reason}")]
    Cell {
        /// The row.
        place: RowLocation,
        /// The column in the file.
        column: String,
        /// The reason.
        reason: cells::CellError,
    },
}

impl Explain for TableError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Damaged { .. } => Some("download or copy it again".into()),
            Self::Other { path, content } => Some(content.hint(path)),
            Self::Missing { meant, .. } => Some(meant.hint()),
            Self::Unreadable { .. } => Some(
                "download or copy the file again and compare its size with the original".into(),
            ),
            Self::Cell {
                reason: cells::CellError::NotUtf8(_),
                ..
            } => Some("write the column as UTF-8 text".into()),
            Self::Cell { .. } => Some("split what is that long into rows".into()),
            Self::Unusable { expected, .. } => Some(format!(
                "write it as {expected}, or name another column in `columns`"
            )),
        }
    }
}
