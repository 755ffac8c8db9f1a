//! Sources of rows: a recipe's file, glob or folder becomes a sorted list of Parquet files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::data::convert::is_convertible;
use crate::data::example::classes::LabelReading;
use crate::data::example::format::Half;
use crate::data::read::columns::is_unpaired;
use crate::data::read::data_file::DataFile;
use crate::data::read::first_bytes::Content;
use crate::fault::{Exit, Explain};
use crate::files::{FileError, files_below};
use crate::terms::{Format, TrainOn};

/// Maximum number of files inspected to find one that can be converted to Parquet.
const LOOKED_AT: usize = 20;
/// Maximum number of names that a hint lists.
const LISTED: usize = 5;

/// One entry of a recipe's `datasets`, with the files that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSource {
    /// Its files, in the order in which their rows are counted.
    pub files: Vec<DataFile>,
    /// The selected rows of each file; `None`: all.
    pub selected: Option<Vec<Range<u64>>>,
    /// The format of the rows.
    pub format: Format,
    /// Map from canonical column names to the names in the file; a name that is left out is the
    /// canonical one.
    pub columns: BTreeMap<String, String>,
    /// Map from the data's words for roles to the roles that the template knows.
    pub roles: BTreeMap<String, String>,
    /// The tokens that carry a loss.
    pub train_on: TrainOn,
    /// The system message of conversations that have none.
    pub system: Option<String>,
    /// How labels and margins are read, where rows are scored.
    pub labels: Option<LabelReading>,
}

impl DataSource {
    /// Returns the completions that each row of a file gives a row of: both of a pair whose
    /// completions are read as rows with labels. `None` for a row as it is.
    pub(super) fn halves(&self) -> &'static [Option<Half>] {
        if is_unpaired(self.format, &self.columns) {
            &[Some(Half::Chosen), Some(Half::Rejected)]
        } else {
            &[None]
        }
    }
}

/// A path that leads to no file.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither a file nor a folder, or a glob or folder without a match.
    #[error("no data file at `{path}`, looked in `{folder}`")]
    NotFound {
        /// The path in the recipe.
        path: String,
        /// The absolute folder in which it was looked up.
        folder: PathBuf,
        /// Parquet files in that folder.
        nearby: Vec<String>,
        /// A file in that folder that can be converted to Parquet, and its kind.
        other: Option<(PathBuf, Content)>,
    },
    /// A link that leads nowhere.
    #[error("`{path}` is a link to `{target}`, which does not exist")]
    Dangling {
        /// The link.
        path: PathBuf,
        /// The target of the link.
        target: PathBuf,
    },
    /// A folder cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The glob pattern is invalid.
    #[error("`{path}` is not a glob: {reason}")]
    Pattern {
        /// The path in the recipe.
        path: String,
        /// The error and its position.
        reason: String,
    },
}

impl Explain for SourceError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound {
                nearby,
                other: Some((path, content)),
                ..
            } if nearby.is_empty() => Some(format!(
                "there is `{}`, which is {}: {}",
                path.display(),
                content.describe(),
                content.hint(path)
            )),
            Self::NotFound { path, .. } if page_of_hub(path).is_some() => {
                let name = page_of_hub(path).unwrap_or_default();
                Some(format!(
                    "a data set of the Hub is written `hf://datasets/{name}`"
                ))
            }
            Self::NotFound { path, nearby, .. } if nearby.is_empty() && looks_like_an_id(path) => {
                Some(format!(
                    "a data set of the Hub is written `hf://datasets/{path}`; a file, a glob or a \
                    folder needs its whole path"
                ))
            }
            Self::NotFound { nearby, .. } if nearby.is_empty() => {
                Some("give a data file (Parquet, JSON, JSONL, CSV, TSV), a glob or a folder".into())
            }
            Self::NotFound { nearby, .. } => Some(format!("there are: {}", nearby.join(", "))),
            Self::Dangling { .. } => {
                Some("restore the file that the link leads to, or remove the link".into())
            }
            Self::File(error) => error.hint(),
            Self::Pattern { .. } => None,
        }
    }
}

/// Returns the files that a recipe's path stands for, sorted: a file, a glob, or every `*.parquet`
/// in and below a folder; in a folder without one, its JSON, JSONL, CSV and TSV files. A folder
/// that a glob matches is read like a named folder, because Spark writes a table as a folder
/// `x.parquet`. Names that begin with a dot are skipped, as in a shell. Folders that begin with `_`
/// are skipped too, because Spark and Delta Lake use them for other files than data.
///
/// # Errors
/// No file is there, and the error names the folder that was searched; or a link leads nowhere.
pub fn find_files(path: &str) -> Result<Vec<PathBuf>, SourceError> {
    let named = Path::new(path);
    let found = match () {
        () if named.is_file() => vec![named.to_owned()],
        () if named.is_dir() => in_folder(named)?,
        () if is_dangling(named) => vec![named.to_owned()],
        () => expand(path)?,
    };
    match found.iter().find(|path| is_dangling(path)) {
        Some(link) => Err(SourceError::Dangling {
            path: link.clone(),
            target: link.read_link().unwrap_or_default(),
        }),
        None if found.is_empty() => Err(not_found(path)),
        None => Ok(found),
    }
}

/// Returns the files that a glob matches, and those of the folders that it matches; dangling links
/// are included.
fn expand(pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    // What is written out is meant, whatever it is called.
    let written = pattern
        .find(['*', '?', '['])
        .map_or(pattern, |start| &pattern[..start]);
    let written =
        written[..written.rfind('/').map_or(0, |slash| slash + 1)].trim_start_matches("./");
    let is_data = |path: &PathBuf| !path.strip_prefix(written).is_ok_and(is_apart);
    let mut files = Vec::new();
    for path in matches(pattern)?.into_iter().filter(is_data) {
        if path.is_dir() {
            files.extend(in_folder(&path)?);
        } else {
            files.push(path);
        }
    }
    // What a glob of several levels finds, a folder above may hold.
    files.sort();
    files.dedup();
    files.retain(|path| path.is_file() || is_dangling(path));
    Ok(files)
}

/// Returns the data files in and below a folder: Parquet files, or files that can be converted if
/// there are none.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut files = files_below(folder)?;
    files.retain(|path| !is_apart(path.strip_prefix(folder).unwrap_or(path)));
    let is_table = |path: &PathBuf| path.extension().is_some_and(|end| end == "parquet");
    if files.iter().any(is_table) {
        files.retain(is_table);
        return Ok(files);
    }
    let mut others = files;
    others.retain(|path| is_convertible(path));
    Ok(others)
}

/// Returns the files with rows in and below a folder that are not among the files that were found
/// there, because Parquet files go before all others.
pub fn passed_over(path: &str, found: &[DataFile]) -> Vec<PathBuf> {
    let folder = Path::new(path);
    let mut others = files_below(folder).unwrap_or_default();
    others.retain(|path| {
        let is_found = found.iter().any(|file| file.path() == path);
        !is_found && !is_apart(path.strip_prefix(folder).unwrap_or(path)) && is_convertible(path)
    });
    others
}

/// Whether a file lies in a folder for other files than data, such as `_temporary` or `_delta_log`.
/// A partition, such as `_year=2020`, is data.
fn is_apart(path: &Path) -> bool {
    let is_apart = |name: &str| name.starts_with('_') && !name.contains('=');
    let folders = path.parent().into_iter().flat_map(Path::components);
    folders
        .into_iter()
        .any(|part| part.as_os_str().to_str().is_some_and(is_apart))
}

fn is_dangling(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    let options = MatchOptions {
        require_literal_leading_dot: true,
        ..MatchOptions::default()
    };
    let paths = glob::glob_with(pattern, options).map_err(|error| SourceError::Pattern {
        path: pattern.to_owned(),
        reason: error.to_string(),
    })?;
    let paths = paths.map(|path| {
        path.map_err(|error| {
            let path = error.path().to_owned();
            SourceError::File(FileError::new("read", &path, error.into()))
        })
    });
    let mut found = paths.collect::<Result<Vec<_>, _>>()?;
    if pattern.contains("**") {
        // A loop of links leads to each file many times.
        let mut seen = BTreeSet::new();
        found.retain(|path| path.canonicalize().map_or(true, |real| seen.insert(real)));
    }
    Ok(found)
}

/// Returns the repository id of a path that is the address of a dataset's page.
fn page_of_hub(path: &str) -> Option<String> {
    let (host, rest) = path.strip_prefix("https://")?.split_once("/datasets/")?;
    let mut parts = rest.split(['/', '?', '#']);
    let (owner, name) = (parts.next()?, parts.next()?);
    (host.contains("huggingface") || host == "hf.co").then(|| format!("{owner}/{name}"))
}

/// Whether a path may be meant as a repository id: `owner/name`.
fn looks_like_an_id(path: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let is_file = Path::new(path)
        .extension()
        .is_some_and(|end| end == "parquet");
    path.split_once('/')
        .is_some_and(|(owner, name)| is_word(owner) && is_word(name))
        && !is_file
}

fn not_found(path: &str) -> SourceError {
    let literal = path
        .find(['*', '?', '['])
        .map_or(path, |start| &path[..=start]);
    let folder = if Path::new(path).is_dir() {
        Path::new(path)
    } else {
        Path::new(literal).parent().unwrap_or(Path::new(""))
    };
    let folder = std::path::absolute(if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    })
    .unwrap_or_else(|_| folder.to_owned());
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    let nearby = matches(&format!(
        "{}/*.parquet",
        Pattern::escape(&folder.to_string_lossy())
    ))
    .unwrap_or_default();
    let nearby: Vec<String> = nearby.into_iter().filter_map(name).take(LISTED).collect();
    let named = if Path::new(path).is_dir() {
        Path::new(path)
    } else {
        folder.as_path()
    };
    let other = if nearby.is_empty() {
        first_with_rows(named)
    } else {
        None
    };
    SourceError::NotFound {
        path: path.to_owned(),
        folder,
        nearby,
        other,
    }
}

/// Returns the first text file of a folder in which rows can be found.
fn first_with_rows(folder: &Path) -> Option<(PathBuf, Content)> {
    let mut paths: Vec<PathBuf> = folder
        .read_dir()
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    let mut files = paths
        .into_iter()
        .filter(|path| path.is_file())
        .take(LOOKED_AT);
    files.find_map(|path| {
        Some((
            path.clone(),
            Content::of(&path).filter(|content| content.has_rows())?,
        ))
    })
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
        found
            .iter()
            .map(|file| {
                file.strip_prefix(folder)
                    .expect("inside")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }

    #[test]
    fn a_file_a_glob_and_a_folder_give_sorted_files() {
        let folder = folder_of(&[
            "b.parquet",
            "a.parquet",
            "deep/er/c.parquet",
            "notes.txt",
            ".hidden.parquet",
            "[x]/d.parquet",
        ]);
        assert_eq!(names(folder.path(), "b.parquet"), ["b.parquet"]);
        assert_eq!(
            names(folder.path(), "*.parquet"),
            ["a.parquet", "b.parquet"]
        );
        assert_eq!(names(folder.path(), "[x]"), ["[x]/d.parquet"]);
        assert_eq!(
            names(folder.path(), ""),
            [
                "[x]/d.parquet",
                "a.parquet",
                "b.parquet",
                "deep/er/c.parquet"
            ]
        );
    }

    #[test]
    fn a_folder_that_a_glob_matches_is_read_and_what_is_no_data_in_it_is_not() {
        let folder = folder_of(&[
            "out/terms.parquet/part-1.parquet",
            "out/terms.parquet/part-0.parquet",
            "out/terms.parquet/_SUCCESS",
            "out/terms.parquet/.part-0.parquet.crc",
            "out/terms.parquet/_temporary/0/part-9.parquet",
            "out/terms.parquet/_delta_log/1.checkpoint.parquet",
            "out/terms.parquet/year=2020/part-2.parquet",
            "out/one.parquet",
        ]);
        let table = |names: &[&str]| {
            names
                .iter()
                .map(|name| format!("out/terms.parquet/{name}"))
                .collect::<Vec<_>>()
        };
        let parts = table(&[
            "part-0.parquet",
            "part-1.parquet",
            "year=2020/part-2.parquet",
        ]);
        for path in [
            "out/terms.parquet",
            "out/terms.parquet/",
            "out/t*.parquet",
            "out/t*.parquet/",
        ] {
            assert_eq!(names(folder.path(), path), parts, "{path}");
        }
        let all: Vec<String> = ["out/one.parquet".to_owned()]
            .into_iter()
            .chain(parts)
            .collect();
        for path in ["out/*.parquet", "out", "*", "**/*.parquet"] {
            assert_eq!(names(folder.path(), path), all, "{path}");
        }
        for path in [
            "out/terms.parquet/_temporary/0",
            "out/terms.parquet/_temporary/*/*.parquet",
        ] {
            assert_eq!(
                names(folder.path(), path).len(),
                1,
                "who names it means it: {path}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_told() {
        let folder = folder_of(&["a.parquet"]);
        std::os::unix::fs::symlink("gone.parquet", folder.path().join("b.parquet")).expect("made");
        for path in ["b.parquet", "*.parquet", ""] {
            let error = find_files(&folder.path().join(path).to_string_lossy())
                .expect_err("it leads nowhere");
            assert!(
                error
                    .to_string()
                    .ends_with("b.parquet` is a link to `gone.parquet`, which does not exist"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_missing_path_names_the_folder_that_was_looked_in_and_what_is_there() {
        let folder = folder_of(&["legal.parquet", "empty/notes.txt"]);
        for (path, looked_in, hint) in [
            ("medical.parquet", "", "there are: legal.parquet"),
            ("med*.parquet", "", "there are: legal.parquet"),
            (
                "empty",
                "empty",
                "give a data file (Parquet, JSON, JSONL, CSV, TSV), a glob or a folder",
            ),
        ] {
            let error =
                find_files(&folder.path().join(path).to_string_lossy()).expect_err("nothing there");
            let expected = folder.path().join(looked_in);
            assert!(
                matches!(&error, SourceError::NotFound { folder, .. } if *folder == expected),
                "{error}"
            );
            assert_eq!(error.hint().as_deref(), Some(hint));
        }
        for path in ["tatsu-lab/alpaca_none", "none/data.v2"] {
            let hint = find_files(path).expect_err("nothing there").hint();
            assert!(
                hint.is_some_and(|hint| hint.contains(&format!("`hf://datasets/{path}`"))),
                "{path}"
            );
        }
        for path in ["none/rows.parquet", "none/*", "none", "./none/x"] {
            let hint = find_files(path).expect_err("nothing there").hint();
            assert!(hint.is_none_or(|hint| !hint.contains("hf://")), "{path}");
        }
        assert!(matches!(
            find_files("data/***"),
            Err(SourceError::Pattern { .. })
        ));
        for path in [
            "./datasets/*.parquet",
            "././datasets/*.parquet",
            "datasets/../datasets/*.parquet",
            "datasets//*.parquet",
        ] {
            assert!(
                !find_files(path)
                    .expect("datasets of the project")
                    .is_empty(),
                "{path}"
            );
        }
    }
}
