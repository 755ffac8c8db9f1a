//! A dataset on the Hub: from a path, a configuration and splits to Parquet files of one commit.
//! Lookups in the cache need no network.
//!
//! ```text
//! path -> names of the files and README.md -> configurations and splits
//!      -> Parquet files of the repository, else of refs/convert/parquet
//! ```

use std::path::PathBuf;

use serde_json::{Value, json};

use super::cache::Cache;
use super::dataset_layout::DatasetSplit;
use super::dataset_path::DatasetPath;
use super::dataset_select::{CONVERTED, Contents, select};
use super::environment::{Environment, Network};
use super::error::{HubError, Missing};
use super::id::{Commit, RepoId};
use crate::fault::shell_word;
use crate::files::{JSON_BYTES, listed, read_text_up_to};

const README: &str = "README.md";

/// Request for rows on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRequest {
    /// Repository, revision and optional glob of files.
    pub path: DatasetPath,
    /// Configuration; `None` for the only one.
    pub config: Option<String>,
    /// Splits, in the order in which their rows are counted; `None` for all.
    pub splits: Option<Vec<String>>,
}

/// Files of a request at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSnapshot {
    /// Repository and requested revision.
    pub id: RepoId,
    /// Commit of that revision.
    pub commit: Commit,
    /// Commit of `refs/convert/parquet`, if the files come from there.
    pub converted: Option<Commit>,
    /// Configuration; `None` if files were named.
    pub config: Option<String>,
    /// Splits with the names of their files.
    pub splits: Vec<DatasetSplit>,
    /// Folder of the files.
    pub folder: PathBuf,
    /// Whether the other files of the repository are unknown, because another program filled the
    /// cache.
    pub is_unlisted: bool,
}

impl DatasetRequest {
    /// Returns the arguments of `rankine pull` that fetch the request.
    pub fn pull_words(&self) -> String {
        let path = self.path.to_string();
        let id = path.strip_prefix("hf://datasets/").unwrap_or(&path);
        let config = self.config.as_ref().map_or_else(String::new, |config| {
            format!(" --config {}", shell_word(config))
        });
        let splits = self
            .splits
            .iter()
            .flatten()
            .map(|split| format!(" --split {}", shell_word(split)));
        let splits: String = splits.filter(|_| self.path.files.is_none()).collect();
        format!("--dataset {}{config}{splits}", shell_word(id))
    }
}

impl DatasetSnapshot {
    /// Returns the names of the files, split by split.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        self.splits.iter().flat_map(|split| &split.files)
    }

    /// Returns the paths of the files, split by split.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files().map(|name| self.folder.join(name)).collect()
    }

    /// Returns the folder with the dataset's README and licenses: the files' own folder, or that of
    /// the commit that was converted.
    pub fn card_folder(&self) -> PathBuf {
        self.folder.with_file_name(self.commit.as_str())
    }

    /// Returns the repository at the commit of the files.
    pub fn pinned(&self) -> RepoId {
        let commit = self.converted.as_ref().unwrap_or(&self.commit);
        self.id.at(commit.as_str()).expect("a commit is a revision")
    }

    /// Returns notes for the user: where the rows come from, and whether some may be missing.
    pub fn notes(&self) -> Vec<String> {
        let converted = self.converted.as_ref().map(|commit| {
            format!(
                "`{}` has no Parquet files of its own: its rows are read from the copy that the \
                Hub made (`{CONVERTED}`, commit {commit})",
                self.id
            )
        });
        let partial = self
            .splits
            .iter()
            .filter(|split| split.is_partial)
            .map(|split| {
                format!(
                    "split `{}` of `{}` is not whole: the Hub has converted its first 5 GB only \
                    (`partial-{}`)",
                    split.name, self.id, split.name
                )
            });
        let unlisted = self.is_unlisted.then(|| {
            format!(
                "the cache does not say what else `{}` holds at commit {}: the files that are \
                there are taken for all",
                self.id, self.commit
            )
        });
        converted
            .into_iter()
            .chain(partial)
            .chain(unlisted)
            .collect()
    }

    /// Returns the value that a lock stores.
    pub fn to_value(&self) -> Value {
        let split = |split: &DatasetSplit| {
            json!({
                "name": split.name,
                "partial": split.is_partial,
                "files": split.files,
            })
        };
        json!({
            "id": self.id.repository(),
            "revision": self.id.revision(),
            "commit": self.commit.as_str(),
            "converted_commit": self.converted.as_ref().map(Commit::as_str),
            "config": self.config,
            "splits": self.splits.iter().map(split).collect::<Vec<_>>(),
        })
    }

    /// Reads the value that a lock stored, for a cache; `None` if it is something else.
    pub fn of_value(value: &Value, cache: &Cache) -> Option<Self> {
        let commit = |key: &str| Commit::parse(value[key].as_str()?);
        let split = |split: &Value| {
            let files: Option<Vec<String>> = split["files"]
                .as_array()?
                .iter()
                .map(|file| Some(file.as_str()?.to_owned()))
                .collect();
            let (name, is_partial) = (
                split["name"].as_str()?.to_owned(),
                split["partial"].as_bool()?,
            );
            // An edited lock must not lead to files elsewhere.
            let files = files.filter(|files| {
                files.iter().all(|file| {
                    !file
                        .split(['/', '\\'])
                        .any(|part| matches!(part, "" | "." | ".."))
                })
            })?;
            Some(DatasetSplit {
                name,
                files,
                is_partial,
            })
        };
        let id = RepoId::parse_dataset(value["id"].as_str()?)
            .ok()?
            .at(value["revision"].as_str()?)
            .ok()?;
        let (of, converted) = (commit("commit")?, commit("converted_commit"));
        Some(Self {
            folder: cache
                .snapshot(&id, converted.clone().unwrap_or_else(|| of.clone()))
                .folder,
            id,
            commit: of,
            converted,
            config: value["config"].as_str().map(str::to_owned),
            splits: value["splits"]
                .as_array()?
                .iter()
                .map(split)
                .collect::<Option<_>>()?,
            is_unlisted: false,
        })
    }

    /// Returns whether the snapshot answers a request, even if the revision has moved since.
    pub fn answers(&self, request: &DatasetRequest) -> bool {
        let splits: Vec<&String> = self.splits.iter().map(|split| &split.name).collect();
        let has_splits = request
            .splits
            .as_ref()
            .is_none_or(|wanted| wanted.iter().eq(splits.iter().copied()));
        let has_config = request.config.is_none() || request.config == self.config;
        let id = &request.path.id;
        let is_same =
            id.repository() == self.id.repository() && id.revision() == self.id.revision();
        is_same && has_splits && has_config && request.path.files.is_some() == self.config.is_none()
    }

    /// Returns the names of files that are missing in the cache.
    pub fn missing(&self) -> Vec<String> {
        self.files()
            .filter(|name| !self.folder.join(name).is_file())
            .cloned()
            .collect()
    }

    /// Returns the snapshot if all its files are in the cache.
    pub(super) fn whole(self, environment: &Environment, pull: String) -> Result<Self, HubError> {
        let names = self.missing();
        if names.is_empty() {
            return Ok(self);
        }
        let commit = self
            .converted
            .clone()
            .unwrap_or_else(|| self.commit.clone());
        Err(environment.not_cached(
            &self.id,
            pull,
            Missing::Files {
                commit,
                names: listed(&names),
            },
        ))
    }

    /// Returns a request for the files of this snapshot alone, as far as one path can name them.
    fn request(&self) -> DatasetRequest {
        let first = self.files().next().map_or("", String::as_str);
        let folder = first
            .rsplit_once('/')
            .map_or_else(String::new, |(folder, _)| format!("{folder}/"));
        let files = if self.files().count() == 1 {
            first.to_owned()
        } else {
            format!("{folder}*.parquet")
        };
        DatasetRequest {
            path: DatasetPath {
                id: self.pinned(),
                files: Some(files),
            },
            config: None,
            splits: None,
        }
    }

    /// Returns the files that a lock names, from the cache.
    ///
    /// # Errors
    /// Some files are missing.
    pub fn in_cache(self, environment: &Environment) -> Result<Self, HubError> {
        let pull = self.request().pull_words();
        self.whole(environment, pull)
    }
}

impl Environment {
    /// Makes the error for content that is missing in the cache; `pull` is the arguments of
    /// `rankine pull` that fetch it.
    pub fn not_cached(&self, id: &RepoId, pull: String, missing: Missing) -> HubError {
        let offline = if let Network::Off(variable) = self.network {
            Some(variable)
        } else {
            None
        };
        HubError::NotCached {
            id: id.to_string(),
            pull,
            cache: self.cache.clone(),
            missing: Box::new(missing),
            offline,
        }
    }

    /// Returns the files of a request from the cache, without network.
    ///
    /// # Errors
    /// Something is missing in the cache, or the request does not match the repository.
    pub fn cached_dataset(&self, request: &DatasetRequest) -> Result<DatasetSnapshot, HubError> {
        let cache = Cache::at(&self.cache);
        let pull = || request.pull_words();
        let missing = |id: &RepoId| self.not_cached(id, pull(), Missing::Everything);
        let found = select(request, &mut |id| {
            let commit = id
                .pinned()
                .or_else(|| cache.commit_of(id))
                .ok_or_else(|| missing(id))?;
            cache.contents(id, commit).ok_or_else(|| missing(id))
        })?;
        // If another program filled the cache, missing files do not prove anything.
        if found.is_unlisted && found.files().next().is_none() {
            let glob = request.path.files.as_deref().unwrap_or("*.parquet");
            let missing = Missing::Files {
                commit: found.commit.clone(),
                names: vec![format!("`{glob}`")],
            };
            return Err(self.not_cached(&request.path.id, pull(), missing));
        }
        found.whole(self, pull())
    }
}

impl Cache {
    /// Returns the contents of a commit as far as the cache has them; `None` if it has none.
    fn contents(&self, id: &RepoId, commit: Commit) -> Option<Contents> {
        let folder = self.snapshot(id, commit.clone()).folder;
        let listed = self.names(id, &commit);
        let is_unlisted = listed.is_none();
        let names =
            listed.or_else(|| Some(names_below(&folder)).filter(|names| !names.is_empty()))?;
        let readme = read_text_up_to(&folder.join(README), JSON_BYTES).ok();
        if readme.is_none() && names.iter().any(|name| name == README) {
            return None;
        }
        Some(Contents {
            commit,
            names,
            readme,
            folder,
            is_unlisted,
        })
    }
}

/// Returns the names of the files in and below a folder.
fn names_below(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if entry.path().is_dir() {
            names.extend(
                names_below(&entry.path())
                    .into_iter()
                    .map(|below| format!("{name}/{below}")),
            );
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_is_told_what_a_recipe_says() {
        let words = |path: &str, config: Option<&str>, splits: &[&str]| {
            let splits = (!splits.is_empty())
                .then(|| splits.iter().map(|split| (*split).to_owned()).collect());
            DatasetRequest {
                path: DatasetPath::parse(path).expect(path),
                config: config.map(str::to_owned),
                splits,
            }
            .pull_words()
        };
        assert_eq!(
            words("hf://datasets/o/n", None, &["train"]),
            "--dataset o/n --split train"
        );
        assert_eq!(
            words("hf://datasets/o/n@v1", Some("a b"), &[]),
            "--dataset o/n@v1 --config 'a b'"
        );
        assert_eq!(
            words("hf://datasets/o/n/data/*", None, &["train"]),
            "--dataset 'o/n/data/*'"
        );
    }
}
