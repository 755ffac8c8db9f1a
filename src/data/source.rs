//! Where rows come from: a recipe's file, glob or folder becomes a sorted list of Parquet files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::fault::{Exit, Explain};
use crate::terms::{Format, TrainOn};

/// Names that a hint lists at most.
const LISTED: usize = 5;

/// One entry of a recipe's `datasets`, with its files found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The files, in the order in which their rows are counted.
    pub files: Vec<PathBuf>,
    /// The shape of the rows.
    pub format: Format,
    /// Canonical column name to the name in the file; a name that is left out is itself.
    pub columns: BTreeMap<String, String>,
    /// The tokens that carry a loss.
    pub train_on: TrainOn,
    /// The system message of conversations that have none.
    pub system: Option<String>,
    /// What is read in place of those of the files that are no Parquet: the same rows, converted.
    pub tables: BTreeMap<PathBuf, PathBuf>,
}

impl Source {
    /// The Parquet file in which the rows of a file are read.
    pub fn table<'a>(&'a self, file: &'a Path) -> &'a Path {
        self.tables.get(file).map_or(file, PathBuf::as_path)
    }
}

/// A path that leads to no file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a file nor a folder, or a glob or folder without a match.
    #[error("no data file at `{path}`, looked in `{folder}`")]
    NotFound {
        /// As the recipe says it.
        path: String,
        /// The absolute folder in which it was looked up.
        folder: PathBuf,
        /// Parquet files that are there.
        nearby: Vec<String>,
    },
    /// The glob is not one.
    #[error("`{path}` is not a glob: {reason}")]
    Pattern {
        /// As the recipe says it.
        path: String,
        /// What is wrong and where.
        reason: String,
    },
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        Exit::Input
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { nearby, .. } if nearby.is_empty() => {
                Some("give a Parquet file, a glob or a folder that holds `*.parquet`".into())
            }
            Self::NotFound { nearby, .. } => Some(format!("there are: {}", nearby.join(", "))),
            Self::Pattern { .. } => None,
        }
    }
}

/// The files that a recipe's path stands for, sorted: a file, a glob, or every `*.parquet` in and below a folder. Names that begin
/// with a dot are passed over, as a shell does.
///
/// # Errors
/// Nothing is there; the error names the folder in which it was looked.
pub fn find_files(path: &str) -> Result<Vec<PathBuf>, Error> {
    let found = if Path::new(path).is_file() {
        vec![PathBuf::from(path)]
    } else if Path::new(path).is_dir() {
        expand(&format!("{}/**/*.parquet", Pattern::escape(path.trim_end_matches('/'))))?
    } else {
        expand(path)?
    };
    if found.is_empty() { Err(not_found(path)) } else { Ok(found) }
}

fn expand(pattern: &str) -> Result<Vec<PathBuf>, Error> {
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::default() };
    let paths = glob::glob_with(pattern, options)
        .map_err(|error| Error::Pattern { path: pattern.to_owned(), reason: error.to_string() })?;
    let mut files: Vec<PathBuf> = paths.flatten().filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

fn not_found(path: &str) -> Error {
    let literal = path.find(['*', '?', '[']).map_or(path, |start| &path[..=start]);
    let folder = if Path::new(path).is_dir() { Path::new(path) } else { Path::new(literal).parent().unwrap_or(Path::new("")) };
    let folder = std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        .unwrap_or_else(|_| folder.to_owned());
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    let nearby = expand(&format!("{}/*.parquet", Pattern::escape(&folder.to_string_lossy()))).unwrap_or_default();
    Error::NotFound { path: path.to_owned(), folder, nearby: nearby.into_iter().filter_map(name).take(LISTED).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("inside")).expect("made");
            std::fs::write(path, b"").expect("written");
        }
        folder
    }

    fn names(folder: &Path, path: &str) -> Vec<String> {
        let found = find_files(&folder.join(path).to_string_lossy()).expect("found");
        found.iter().map(|file| file.strip_prefix(folder).expect("inside").to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_a_glob_and_a_folder_give_sorted_files() {
        let folder = folder_of(&["b.parquet", "a.parquet", "deep/er/c.parquet", "notes.txt", ".hidden.parquet", "[x]/d.parquet"]);
        assert_eq!(names(folder.path(), "b.parquet"), ["b.parquet"]);
        assert_eq!(names(folder.path(), "*.parquet"), ["a.parquet", "b.parquet"]);
        assert_eq!(names(folder.path(), "[x]"), ["[x]/d.parquet"]);
        assert_eq!(names(folder.path(), ""), ["[x]/d.parquet", "a.parquet", "b.parquet", "deep/er/c.parquet"]);
    }

    #[test]
    fn a_missing_path_names_the_folder_that_was_looked_in_and_what_is_there() {
        let folder = folder_of(&["legal.parquet", "empty/notes.txt"]);
        for (path, looked_in, hint) in [
            ("medical.parquet", "", "there are: legal.parquet"),
            ("med*.parquet", "", "there are: legal.parquet"),
            ("empty", "empty", "give a Parquet file, a glob or a folder that holds `*.parquet`"),
        ] {
            let error = find_files(&folder.path().join(path).to_string_lossy()).expect_err("nothing there");
            assert!(matches!(&error, Error::NotFound { folder: in_, .. } if *in_ == folder.path().join(looked_in)), "{error}");
            assert_eq!(error.hint().as_deref(), Some(hint));
        }
        assert!(matches!(find_files("data/***"), Err(Error::Pattern { .. })));
    }
}
