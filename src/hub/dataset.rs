//! A data set of the Hub: from a path, a configuration and splits to Parquet files of one commit. Looking into the cache needs no network.
//!
//! ```text
//! path -> names of the files and README.md -> configurations and splits -> Parquet files of the repository, else of refs/convert/parquet
//! ```

use std::path::PathBuf;

use serde_json::{Value, json};

use super::cache::Cache;
use super::dataset_layout::{Config, DatasetSplit, is_conversion, of_conversion, of_glob, of_repository};
use super::dataset_path::DatasetPath;
use super::environment::{Environment, Network};
use super::error::{Error, Missing};
use super::id::{Commit, RepoId};
use crate::fault::shell_word;
use crate::files::{JSON_BYTES, listed, read_text_up_to};

/// The branch to which the Hub converts public data sets.
const CONVERTED: &str = "refs/convert/parquet";
const MAIN: &str = "main";
const README: &str = "README.md";
/// Names that a message lists at most.
const LISTED: usize = 20;

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
    /// Whether the cache does not tell what else the repository holds, because another program filled it.
    pub is_unlisted: bool,
}

/// What a revision holds.
pub(super) struct Contents {
    pub commit: Commit,
    /// The names of all files.
    pub names: Vec<String>,
    pub readme: Option<String>,
    pub folder: PathBuf,
    pub is_unlisted: bool,
}

impl DatasetRequest {
    /// What `rankine pull` is told to fetch it.
    pub fn pull_words(&self) -> String {
        let path = self.path.to_string();
        let id = path.strip_prefix("hf://datasets/").unwrap_or(&path);
        let config = self.config.as_ref().map_or_else(String::new, |config| format!(" --config {}", shell_word(config)));
        let splits = self.splits.iter().flatten().map(|split| format!(" --split {}", shell_word(split)));
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

    /// The repository at the commit that the files are from.
    pub fn pinned(&self) -> RepoId {
        let commit = self.converted.as_ref().unwrap_or(&self.commit);
        self.id.at(commit.as_str()).expect("a commit is a revision")
    }

    /// What a person should know: where the rows come from, and that some may be missing.
    pub fn notes(&self) -> Vec<String> {
        let converted = self.converted.as_ref().map(|commit| {
            format!("`{}` has no Parquet files of its own: its rows are read from the copy that the Hub made (`{CONVERTED}`, commit {commit})", self.id)
        });
        let partial = self.splits.iter().filter(|split| split.is_partial).map(|split| {
            format!(
                "split `{}` of `{}` is not whole: the Hub has converted its first 5 GB only (`partial-{}`)",
                split.name, self.id, split.name
            )
        });
        let unlisted = self.is_unlisted.then(|| {
            format!(
                "the cache does not say what else `{}` holds at commit {}: the files that are there are taken for all",
                self.id, self.commit
            )
        });
        converted.into_iter().chain(partial).chain(unlisted).collect()
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
            let files: Option<Vec<String>> =
                split["files"].as_array()?.iter().map(|file| Some(file.as_str()?.to_owned())).collect();
            let (name, is_partial) = (split["name"].as_str()?.to_owned(), split["partial"].as_bool()?);
            // A lock that was edited leads nowhere else.
            let files = files
                .filter(|files| files.iter().all(|file| !file.split(['/', '\\']).any(|part| matches!(part, "" | "." | ".."))))?;
            Some(DatasetSplit { name, files, is_partial })
        };
        let id = RepoId::parse_dataset(value["id"].as_str()?).ok()?.at(value["revision"].as_str()?).ok()?;
        let (of, converted) = (commit("commit")?, commit("converted_commit"));
        Some(Self {
            folder: cache.snapshot(&id, converted.clone().unwrap_or_else(|| of.clone())).folder,
            id,
            commit: of,
            converted,
            config: value["config"].as_str().map(str::to_owned),
            splits: value["splits"].as_array()?.iter().map(split).collect::<Option<_>>()?,
            is_unlisted: false,
        })
    }

    /// Whether it holds what a request asks for, whatever its revision has come to be.
    pub fn answers(&self, request: &DatasetRequest) -> bool {
        let splits: Vec<&String> = self.splits.iter().map(|split| &split.name).collect();
        let has_splits = request.splits.as_ref().is_none_or(|wanted| wanted.iter().eq(splits.iter().copied()));
        let has_config = request.config.is_none() || request.config == self.config;
        let id = &request.path.id;
        let is_same = id.repository() == self.id.repository() && id.revision() == self.id.revision();
        is_same && has_splits && has_config && request.path.files.is_some() == self.config.is_none()
    }

    /// Names of files that the cache has not.
    pub fn missing(&self) -> Vec<String> {
        self.files().filter(|name| !self.folder.join(name).is_file()).cloned().collect()
    }

    /// The snapshot, if all its files are there.
    pub(super) fn whole(self, environment: &Environment, pull: String) -> Result<Self, Error> {
        let names = self.missing();
        if names.is_empty() {
            return Ok(self);
        }
        let commit = self.converted.clone().unwrap_or_else(|| self.commit.clone());
        Err(environment.not_cached(&self.id, pull, Missing::Files { commit, names: listed(&names) }))
    }

    /// A request for the files of this snapshot alone, as far as one path can name them.
    fn request(&self) -> DatasetRequest {
        let first = self.files().next().map_or("", String::as_str);
        let folder = first.rsplit_once('/').map_or_else(String::new, |(folder, _)| format!("{folder}/"));
        let files = if self.files().count() == 1 { first.to_owned() } else { format!("{folder}*.parquet") };
        DatasetRequest { path: DatasetPath { id: self.pinned(), files: Some(files) }, config: None, splits: None }
    }

    /// The files that a lock names, from the cache.
    ///
    /// # Errors
    /// Some are missing.
    pub fn in_cache(self, environment: &Environment) -> Result<Self, Error> {
        let pull = self.request().pull_words();
        self.whole(environment, pull)
    }
}

impl Environment {
    /// The error of what the cache has not; `pull` is what `rankine pull` is told to fetch it.
    pub fn not_cached(&self, id: &RepoId, pull: String, missing: Missing) -> Error {
        let offline = if let Network::Off(variable) = self.network { Some(variable) } else { None };
        Error::NotCached { id: id.to_string(), pull, cache: self.cache.clone(), missing, offline }
    }

    /// The files of a request that are in the cache, without network.
    ///
    /// # Errors
    /// Something is not in the cache, or the request does not go with what the repository holds.
    pub fn cached_dataset(&self, request: &DatasetRequest) -> Result<DatasetSnapshot, Error> {
        let cache = Cache::at(&self.cache);
        let pull = || request.pull_words();
        let missing = |id: &RepoId| self.not_cached(id, pull(), Missing::Everything);
        let found = select(request, &mut |id| {
            let commit = id.pinned().or_else(|| cache.commit_of(id)).ok_or_else(|| missing(id))?;
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
        let names = listed.or_else(|| Some(names_below(&folder)).filter(|names| !names.is_empty()))?;
        let readme = read_text_up_to(&folder.join(README), JSON_BYTES).ok();
        if readme.is_none() && names.iter().any(|name| name == README) {
            return None;
        }
        Some(Contents { commit, names, readme, folder, is_unlisted })
    }
}

/// The names of the files in and below a folder.
fn names_below(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.path().is_dir() {
            names.extend(names_below(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}

/// Which files are asked for. `contents` looks at a revision, and is asked for the converted one only if the repository has no Parquet.
pub(super) fn select(
    request: &DatasetRequest,
    contents: &mut dyn FnMut(&RepoId) -> Result<Contents, Error>,
) -> Result<DatasetSnapshot, Error> {
    let id = &request.path.id;
    let here = contents(id)?;
    if let Some(glob) = &request.path.files {
        return of_files(request, glob, here);
    }
    let layout = |reason| Error::DatasetLayout { id: id.to_string(), reason };
    let is_converted = id.revision() == CONVERTED || is_conversion(&here.names);
    let configs = if is_converted {
        of_conversion(&here.names)
    } else {
        of_repository(&here.names, here.readme.as_deref()).map_err(layout)?
    };
    if configs.iter().any(Config::has_parquet) {
        let config = choose(request, &configs)?;
        if config.has_parquet() {
            return picked(request, config, here, None);
        }
    }
    if is_converted || id.revision() != MAIN {
        return Err(no_parquet(id, &here.names, Some(id.revision())));
    }
    let converted = id.at(CONVERTED).map_err(Error::Id)?;
    let there = contents(&converted).map_err(|error| match error {
        Error::NoRevision { .. } => no_parquet(id, &here.names, None),
        other => other,
    })?;
    let configs = of_conversion(&there.names);
    let config = choose(request, &configs)?;
    let commit = here.commit.clone();
    picked(request, config, there, Some(commit))
}

/// Files that were named are one split, as `data_files` are to `datasets`.
fn of_files(request: &DatasetRequest, glob: &str, here: Contents) -> Result<DatasetSnapshot, Error> {
    let id = &request.path.id;
    let files = of_glob(&here.names, glob).map_err(|reason| Error::DatasetLayout { id: id.to_string(), reason })?;
    if files.is_empty() && !here.is_unlisted {
        let parquet: Vec<String> = here.names.iter().filter(|name| name.ends_with(".parquet")).cloned().collect();
        return Err(Error::NoFiles { id: id.to_string(), glob: glob.to_owned(), found: shortened(&parquet) });
    }
    let split =
        DatasetSplit { name: "train".to_owned(), files, is_partial: glob.split('/').any(|part| part.starts_with("partial-")) };
    let all = Config { name: String::new(), is_usual: false, splits: vec![split] };
    picked(request, &all, here, None).map(|snapshot| DatasetSnapshot { config: None, ..snapshot })
}

fn choose<'a>(request: &DatasetRequest, configs: &'a [Config]) -> Result<&'a Config, Error> {
    let found = match (&request.config, configs) {
        (Some(wanted), _) => configs.iter().find(|config| config.name == *wanted),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    found.ok_or_else(|| Error::DatasetConfig {
        id: request.path.id.to_string(),
        wanted: request.config.clone(),
        configs: shortened(&configs.iter().map(|config| config.name.clone()).collect::<Vec<_>>()),
        usual: configs.iter().find(|config| config.is_usual).map(|config| config.name.clone()),
    })
}

/// The wanted splits of a configuration; `asked` is the commit of the revision that was asked for, where the files are from another one.
fn picked(request: &DatasetRequest, config: &Config, from: Contents, asked: Option<Commit>) -> Result<DatasetSnapshot, Error> {
    let of = |wanted: &String| {
        config.splits.iter().find(|split| split.name == *wanted).cloned().ok_or_else(|| Error::DatasetSplit {
            id: request.path.to_string(),
            config: Some(config.name.clone()).filter(|name| !name.is_empty()),
            wanted: wanted.clone(),
            splits: shortened(&config.splits.iter().map(|split| split.name.clone()).collect::<Vec<_>>()),
        })
    };
    let splits = match &request.splits {
        None => config.splits.clone(),
        Some(wanted) => wanted.iter().map(of).collect::<Result<_, _>>()?,
    };
    let converted = asked.is_some().then(|| from.commit.clone());
    Ok(DatasetSnapshot {
        id: request.path.id.clone(),
        commit: asked.unwrap_or(from.commit),
        converted,
        config: Some(config.name.clone()),
        splits,
        folder: from.folder,
        is_unlisted: from.is_unlisted,
    })
}

/// `revision` is the one that was asked for, where the Hub converts no such one.
fn no_parquet(id: &RepoId, names: &[String], revision: Option<&str>) -> Error {
    let others: Vec<String> = names.iter().filter(|name| !name.starts_with('.') && *name != README).cloned().collect();
    Error::NoParquet { id: id.to_string(), revision: revision.map(str::to_owned), found: shortened(&others) }
}

/// The first names, and how many more there are.
fn shortened(names: &[String]) -> Vec<String> {
    let more = names.len().saturating_sub(LISTED);
    let first = names.iter().take(LISTED).map(|name| format!("`{}`", crate::fault::printable(name)));
    first.chain((more > 0).then(|| format!("and {more} more"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn request(path: &str, config: Option<&str>, splits: &[&str]) -> DatasetRequest {
        DatasetRequest {
            path: DatasetPath::parse(path).expect(path),
            config: config.map(str::to_owned),
            splits: (!splits.is_empty()).then(|| splits.iter().map(|split| (*split).to_owned()).collect()),
        }
    }

    fn select_of(request: &DatasetRequest, main: &[&str], converted: Option<&[&str]>) -> Result<DatasetSnapshot, Error> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        select(request, &mut |id| {
            let (commit, names) = match (id.revision(), converted) {
                ("refs/convert/parquet", Some(converted)) => ("f".repeat(40), names(converted)),
                ("refs/convert/parquet", None) => {
                    let (repository, revision) = (id.page(), id.revision().to_owned());
                    return Err(Error::NoRevision { repository, revision, endpoint: String::new() });
                }
                _ => (COMMIT.to_owned(), names(main)),
            };
            let commit = Commit::parse(&commit).expect("a commit");
            Ok(Contents { commit, names, readme: None, folder: "snapshot".into(), is_unlisted: false })
        })
    }

    #[test]
    fn parquet_of_the_repository_comes_before_the_converted_copy() {
        let path = "hf://datasets/o/n";
        let converted = &["a/train/0000.parquet", "b/partial-train/0000.parquet"][..];
        let own = select_of(&request(path, None, &["train"]), &["train.parquet", "test.parquet"], Some(converted)).expect("own");
        assert_eq!((own.files().collect::<Vec<_>>(), own.converted, own.splits.len()), (vec!["train.parquet"], None, 1));
        let copy = select_of(&request(path, Some("b"), &["train"]), &["train.jsonl"], Some(converted)).expect("converted");
        assert_eq!((copy.commit.as_str(), copy.converted.as_ref().map(Commit::as_str)), (COMMIT, Some(&*"f".repeat(40))));
        let notes = copy.notes();
        assert!(
            notes[0].contains("refs/convert/parquet") && notes[1].contains("split `train` of `datasets/o/n` is not whole"),
            "{notes:?}"
        );
        let cache = Cache::at(std::path::Path::new("/cache"));
        let again = DatasetSnapshot::of_value(&copy.to_value(), &cache).expect("read back");
        assert_eq!((again.pinned(), &again.splits), (copy.pinned(), &copy.splits));
        let mut edited = copy.to_value();
        edited["splits"][0]["files"][0] = json!("../../x.parquet");
        assert_eq!(DatasetSnapshot::of_value(&edited, &cache), None);
    }

    #[test]
    fn what_does_not_go_with_the_repository_names_both_sides() {
        let path = "hf://datasets/o/n";
        let converted = &["a/train/0000.parquet", "b/train/0000.parquet"][..];
        let error = |request: &DatasetRequest, main: &[&str], converted| {
            select_of(request, main, converted).expect_err("refused").to_string()
        };
        let both = "`datasets/o/n` has several configurations: `a`, `b`";
        assert_eq!(error(&request(path, None, &["train"]), &["x.json"], Some(converted)), both);
        let other = "`datasets/o/n` has no configuration `c`, it has: `a`, `b`";
        assert_eq!(error(&request(path, Some("c"), &["train"]), &["x.json"], Some(converted)), other);
        let split = "`hf://datasets/o/n` has no split `dev` in configuration `a`, it has: `train`";
        assert_eq!(error(&request(path, Some("a"), &["dev"]), &["x.json"], Some(converted)), split);
        let none = "`datasets/o/n` has no Parquet files and no branch `refs/convert/parquet`, it has: `x.json`";
        assert_eq!(error(&request(path, None, &["train"]), &["x.json"], None), none);
        let tag = "`datasets/o/n@v1` has no Parquet files, it has: `x.json`; the Hub converts `main` only, not `v1`";
        assert_eq!(error(&request("hf://datasets/o/n@v1", None, &["train"]), &["x.json"], None), tag);
        let glob = "no Parquet file of `datasets/o/n` matches `data/*`, it has: `x.parquet`";
        assert_eq!(error(&request("hf://datasets/o/n/data/*", None, &["train"]), &["x.parquet"], None), glob);
    }

    #[test]
    fn pull_is_told_what_a_recipe_says() {
        let words = |path: &str, config, splits: &[&str]| request(path, config, splits).pull_words();
        assert_eq!(words("hf://datasets/o/n", None, &["train"]), "--dataset o/n --split train");
        assert_eq!(words("hf://datasets/o/n@v1", Some("a b"), &[]), "--dataset o/n@v1 --config 'a b'");
        assert_eq!(words("hf://datasets/o/n/data/*", None, &["train"]), "--dataset 'o/n/data/*'");
    }
}
