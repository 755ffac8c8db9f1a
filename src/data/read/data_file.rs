//! Data files: the path that the user names, and the Parquet file that the rows are read from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::files::Lease;

/// A data file of a recipe. Messages and locks use its path; rows are read from its Parquet file.
#[derive(Debug, Clone)]
pub struct DataFile {
    path: PathBuf,
    made: Option<Made>,
}

/// The Parquet file that a data file was converted to.
#[derive(Debug, Clone)]
struct Made {
    path: PathBuf,
    keep: Keep,
}

/// Owner that keeps a converted Parquet file on disk.
#[derive(Debug, Clone)]
pub(in crate::data) enum Keep {
    /// An entry of the cache, with no lease if nobody can remove it.
    #[expect(dead_code, reason = "what is held keeps the file")]
    Entry(Option<Arc<Lease>>),
    /// A file in a temporary folder, which is deleted when the last user is dropped.
    Temporary(Arc<TempDir>),
}

impl DataFile {
    /// Creates a data file that was converted to the Parquet file at `parquet`.
    pub(in crate::data) fn converted(path: PathBuf, parquet: PathBuf, keep: Keep) -> Self {
        Self {
            path,
            made: Some(Made {
                path: parquet,
                keep,
            }),
        }
    }

    /// Returns the path of the file that the recipe names.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the Parquet file with its rows: the file itself, or the one it was converted to.
    pub fn parquet(&self) -> &Path {
        self.made.as_ref().map_or(&self.path, |made| &made.path)
    }

    /// Returns the temporary folder of its converted Parquet file, for an end without destructors.
    pub fn temporary_folder(&self) -> Option<&Path> {
        match &self.made.as_ref()?.keep {
            Keep::Temporary(folder) => Some(folder.path()),
            Keep::Entry(_) => None,
        }
    }

    /// Whether its rows are read from a converted Parquet file.
    pub fn is_converted(&self) -> bool {
        self.made.is_some()
    }

    /// Returns the name of the cache entry that holds its rows as Parquet.
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
