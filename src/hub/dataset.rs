//! A data set of the Hub: from a path, a configuration and splits to Parquet files of one commit.
//! Looking into the cache needs no network.
//!
//! ```text
//! path -> names of the files and README.md -> configurations and splits -> Parquet files of the repository, else of refs/convert/parquet
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

/// Rows of the Hub, as they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRequest {
    /// The repository, the revision and perhaps a glob of files.
    pub path: DatasetPath,
    /// The configuration; `None` for the only one.
    pub config: Option<String>,
    /// The splits, in the order in which their rows are counted; `None` for all.
    pub splits: Option<Vec<String>>,
}

/// The files of a request at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSnapshot {
    /// The repository and the revision that was asked for.
    pub id: RepoId,
    /// What that revision is.
    pub commit: Commit,
    /// The commit of `refs/convert/parquet`, where the files are from there.
    pub converted: Option<Commit>,
    /// The configuration; `None` where files were named.
    pub config: Option<String>,
    /// The splits with the names of their files.
    pub splits: Vec<DatasetSplit>,
    /// Where the files are.
    pub folder: PathBuf,
    /// Whether the cache does not tell what else the repository holds, because another program
    /// filled it.
    pub is_unlisted: bool,
}

impl DatasetRequest {
    /// What `rankine pull` is told to fetch it.
    pub fn pull_words(&self) -> String {
        let path = self.path.to_string();
        let id = path.strip_prefix("hf://datasets/").unwrap_or(&path);
        let config = self.config.as_ref().map_or_else(String::new, |config| {
            format!(
                " --config \
        {}",
                shell_word(config)
            )
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
    /// The names of the files, split after split.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        self.splits.iter().flat_map(|split| &split.files)
    }

    /// The paths of the files, split after split.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files().map(|name| self.folder.join(name)).collect()
    }

    /// Where the README and the licenses of the data set are: beside the rows, or in the commit
    /// that was converted.
    pub fn card_folder(&self) -> PathBuf {
        self.folder.with_file_name(self.commit.as_str())
    }

    /// The repository at the commit that the files are from.
    pub fn pinned(&self) -> RepoId {
        let commit = self.converted.as_ref().unwrap_or(&self.commit);
        self.id.at(commit.as_str()).expect("a commit is a revision")
    }

    /// What a person should know: where the rows come from, and that some may be missing.
    pub fn notes(&self) -> Vec<String> {
        let converted = self.converted.as_ref().map(|commit| {
            format!(
                "`{}` has no Parquet files of its own: its rows are read from the copy that \
            the Hub made (`{CONVERTED}`, commit {commit})",
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

    /// What a lock writes down.
    pub fn to_value(&self) -> Value {
        let split = |split: &DatasetSplit| json!({"name": split.name, "partial": split.is_partial, "files": split.files});
        json!({
            "id": self.id.repository(),
            "revision": self.id.revision(),
            "commit": self.commit.as_str(),
            "converted_commit": self.converted.as_ref().map(Commit::as_str),
            "config": self.config,
            "splits": self.splits.iter().map(split).collect::<Vec<_>>(),
        })
    }

    /// What a lock wrote down, in a cache; `None` where it is something else.
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
            // A lock that was edited leads nowhere else.
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

    /// Whether it holds what a request asks for, whatever its revision has come to be.
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

    /// Names of files that the cache has not.
    pub fn missing(&self) -> Vec<String> {
        self.files()
            .filter(|name| !self.folder.join(name).is_file())
            .cloned()
            .collect()
    }

    /// The snapshot, if all its files are there.
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

    /// A request for the files of this snapshot alone, as far as one path can name them.
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

    /// The files that a lock names, from the cache.
    ///
    /// # Errors
    /// Some are missing.
    pub fn in_cache(self, environment: &Environment) -> Result<Self, HubError> {
        let pull = self.request().pull_words();
        self.whole(environment, pull)
    }
}

impl Environment {
    /// The error of what the cache has not; `pull` is what `rankine pull` is told to fetch it.
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

    /// The files of a request that are in the cache, without network.
    ///
    /// # Errors
    /// Something is not in the cache, or the request does not go with what the repository holds.
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
        // Of a cache that another program filled, that there is nothing is no proof.
        if found.is_unlisted && found.files().next().is_none() {
            return Err(missing(&request.path.id));
        }
        found.whole(self, pull())
    }
}

impl Cache {
    /// What the cache knows of a commit; `None` where it has nothing of it.
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

/// The names of the files in and below a folder.
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
            "--dataset o/n@v1 --config 'a \
        b'"
        );
        assert_eq!(
            words("hf://datasets/o/n/data/*", None, &["train"]),
            "--dataset 'o/n/data/*'"
        );
    }
}
