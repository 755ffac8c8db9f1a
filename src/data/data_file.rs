//! A data file: what a person calls it, and the Parquet file that its rows are read from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::files::Lease;

/// A data file of a recipe. Messages and locks call it by its path; rows are read from its Parquet
/// file.
#[derive(Debug, Clone)]
pub struct DataFile {
    path: PathBuf,
    made: Option<Made>,
}

/// The Parquet file that was made of a data file.
#[derive(Debug, Clone)]
struct Made {
    path: PathBuf,
    keep: Keep,
}

/// What keeps a Parquet file that was made.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "what is held keeps the file")]
pub(super) enum Keep {
    /// It is an entry of the cache; no lease where nobody can remove it.
    Entry(Option<Arc<Lease>>),
    /// It goes with this folder when the last user is dropped.
    Temporary(Arc<TempDir>),
}

impl DataFile {
    /// A file of which the Parquet file at `parquet` was made.
    pub(super) fn converted(path: PathBuf, parquet: PathBuf, keep: Keep) -> Self {
        Self {
            path,
            made: Some(Made {
                path: parquet,
                keep,
            }),
        }
    }

    /// The file that the recipe leads to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Parquet file of its rows: itself, or the one that was made of it.
    pub fn parquet(&self) -> &Path {
        self.made.as_ref().map_or(&self.path, |made| &made.path)
    }

    /// Whether its rows are read from a Parquet file that was made of it.
    pub fn is_converted(&self) -> bool {
        self.made.is_some()
    }

    /// The name of the cache entry that holds its rows as Parquet.
    pub fn cache_entry(&self) -> Option<&str> {
        let made = self
            .made
            .as_ref()
            .filter(|made| matches!(made.keep, Keep::Entry(_)))?;
        made.path.file_name()?.to_str()
    }
}

impl From<PathBuf> for DataFile {
    fn from(path: PathBuf) -> Self {
        Self { path, made: None }
    }
}

impl AsRef<Path> for DataFile {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl PartialEq for DataFile {
    fn eq(&self, other: &Self) -> bool {
        (self.path(), self.parquet()) == (other.path(), other.parquet())
    }
}

impl Eq for DataFile {}
