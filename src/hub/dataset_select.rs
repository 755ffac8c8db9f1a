//! Selection of the files that a request for a dataset means: the repository's own Parquet files,
//! otherwise those of the branch with the Hub's copies.

use std::path::PathBuf;

use super::dataset::{DatasetRequest, DatasetSnapshot};
use super::dataset_layout::{
    Config, DatasetSplit, is_conversion, of_conversion, of_glob, of_repository,
};
use super::error::HubError;
use super::id::{Commit, RepoId};
use crate::fault::printable;

/// Branch with the Hub's Parquet copies of public datasets.
pub(super) const CONVERTED: &str = "refs/convert/parquet";
const MAIN: &str = "main";
/// Most names in a message.
const LISTED: usize = 20;

/// Contents of a revision.
pub(super) struct Contents {
    pub commit: Commit,
    /// Names of all files.
    pub names: Vec<String>,
    pub readme: Option<String>,
    pub folder: PathBuf,
    pub is_unlisted: bool,
}

/// Selects the files of a request. `contents` looks up a revision; the converted branch is looked
/// up only if the repository has no Parquet files.
pub(super) fn select(
    request: &DatasetRequest,
    contents: &mut dyn FnMut(&RepoId) -> Result<Contents, HubError>,
) -> Result<DatasetSnapshot, HubError> {
    let id = &request.path.id;
    let here = contents(id)?;
    if let Some(glob) = &request.path.files {
        return of_files(request, glob, here);
    }
    let layout = |reason| HubError::DatasetLayout {
        id: id.to_string(),
        reason,
    };
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
    let converted = id.at(CONVERTED).map_err(HubError::Id)?;
    let there = contents(&converted).map_err(|error| match error {
        HubError::NoRevision { .. } => no_parquet(id, &here.names, None),
        other => other,
    })?;
    let configs = of_conversion(&there.names);
    let config = choose(request, &configs)?;
    let commit = here.commit.clone();
    picked(request, config, there, Some(commit))
}

/// Selects named files, which form one split, as `data_files` do in `datasets`.
fn of_files(
    request: &DatasetRequest,
    glob: &str,
    here: Contents,
) -> Result<DatasetSnapshot, HubError> {
    let id = &request.path.id;
    let files = of_glob(&here.names, glob).map_err(|reason| HubError::DatasetLayout {
        id: id.to_string(),
        reason,
    })?;
    if files.is_empty() && !here.is_unlisted {
        let parquet: Vec<String> = here
            .names
            .iter()
            .filter(|name| name.ends_with(".parquet"))
            .cloned()
            .collect();
        return Err(HubError::NoFiles {
            id: id.to_string(),
            glob: glob.to_owned(),
            found: shortened(&parquet),
        });
    }
    let split = DatasetSplit {
        name: "train".to_owned(),
        files,
        is_partial: glob.split('/').any(|part| part.starts_with("partial-")),
    };
    let all = Config {
        name: String::new(),
        is_usual: false,
        splits: vec![split],
    };
    picked(request, &all, here, None).map(|snapshot| DatasetSnapshot {
        config: None,
        ..snapshot
    })
}

fn choose<'a>(request: &DatasetRequest, configs: &'a [Config]) -> Result<&'a Config, HubError> {
    let found = match (&request.config, configs) {
        (Some(wanted), _) => configs.iter().find(|config| config.name == *wanted),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    found.ok_or_else(|| HubError::DatasetConfig {
        id: request.path.id.to_string(),
        wanted: request.config.clone(),
        configs: shortened(
            &configs
                .iter()
                .map(|config| config.name.clone())
                .collect::<Vec<_>>(),
        ),
        usual: configs
            .iter()
            .find(|config| config.is_usual)
            .map(|config| config.name.clone()),
    })
}

/// Selects the requested splits of a configuration. `asked` is the commit of the requested
/// revision, if the files come from another one.
fn picked(
    request: &DatasetRequest,
    config: &Config,
    from: Contents,
    asked: Option<Commit>,
) -> Result<DatasetSnapshot, HubError> {
    let of = |wanted: &String| {
        config
            .splits
            .iter()
            .find(|split| split.name == *wanted)
            .cloned()
            .ok_or_else(|| HubError::DatasetSplit {
                id: request.path.to_string(),
                config: Some(config.name.clone()).filter(|name| !name.is_empty()),
                wanted: wanted.clone(),
                splits: shortened(
                    &config
                        .splits
                        .iter()
                        .map(|split| split.name.clone())
                        .collect::<Vec<_>>(),
                ),
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

/// Makes the error for a dataset without Parquet files; `revision` is the requested one, if the Hub
/// does not convert it.
fn no_parquet(id: &RepoId, names: &[String], revision: Option<&str>) -> HubError {
    let others: Vec<String> = names
        .iter()
        .filter(|name| !name.starts_with('.') && *name != "README.md")
        .cloned()
        .collect();
    HubError::NoParquet {
        id: id.to_string(),
        revision: revision.map(str::to_owned),
        found: shortened(&others),
    }
}

/// Returns the first names, and the number of the others.
fn shortened(names: &[String]) -> Vec<String> {
    let more = names.len().saturating_sub(LISTED);
    let first = names
        .iter()
        .take(LISTED)
        .map(|name| format!("`{}`", printable(name)));
    first
        .chain((more > 0).then(|| format!("and {more} more")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cache::Cache;
    use super::super::dataset_path::DatasetPath;
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn request(path: &str, config: Option<&str>, splits: &[&str]) -> DatasetRequest {
        DatasetRequest {
            path: DatasetPath::parse(path).expect(path),
            config: config.map(str::to_owned),
            splits: (!splits.is_empty())
                .then(|| splits.iter().map(|split| (*split).to_owned()).collect()),
        }
    }

    fn select_of(
        request: &DatasetRequest,
        main: &[&str],
        converted: Option<&[&str]>,
    ) -> Result<DatasetSnapshot, HubError> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        select(request, &mut |id| {
            let (commit, names) = match (id.revision(), converted) {
                ("refs/convert/parquet", Some(converted)) => ("f".repeat(40), names(converted)),
                ("refs/convert/parquet", None) => {
                    let (repository, revision) = (id.page(), id.revision().to_owned());
                    return Err(HubError::NoRevision {
                        repository,
                        revision,
                        endpoint: String::new(),
                    });
                }
                _ => (COMMIT.to_owned(), names(main)),
            };
            let commit = Commit::parse(&commit).expect("a commit");
            Ok(Contents {
                commit,
                names,
                readme: None,
                folder: "snapshot".into(),
                is_unlisted: false,
            })
        })
    }

    #[test]
    fn parquet_of_the_repository_comes_before_the_converted_copy() {
        let path = "hf://datasets/o/n";
        let converted = &["a/train/0000.parquet", "b/partial-train/0000.parquet"][..];
        let own = select_of(
            &request(path, None, &["train"]),
            &["train.parquet", "test.parquet"],
            Some(converted),
        )
        .expect("own");
        assert!(
            own.files().eq(["train.parquet"]) && own.converted.is_none() && own.splits.len() == 1,
            "{own:?}"
        );
        let copy = select_of(
            &request(path, Some("b"), &["train"]),
            &["train.jsonl"],
            Some(converted),
        )
        .expect("converted");
        assert_eq!(
            (
                copy.commit.as_str(),
                copy.converted.as_ref().map(Commit::as_str)
            ),
            (COMMIT, Some(&*"f".repeat(40)))
        );
        let notes = copy.notes();
        assert!(
            notes[0].contains("refs/convert/parquet")
                && notes[1].contains("split `train` of `datasets/o/n` is not whole"),
            "{notes:?}"
        );
        let cache = Cache::at(std::path::Path::new("/cache"));
        let again = DatasetSnapshot::of_value(&copy.to_value(), &cache).expect("read back");
        assert_eq!(
            (again.pinned(), &again.splits),
            (copy.pinned(), &copy.splits)
        );
        let mut edited = copy.to_value();
        edited["splits"][0]["files"][0] = json!("../../x.parquet");
        assert_eq!(DatasetSnapshot::of_value(&edited, &cache), None);
    }

    #[test]
    fn what_does_not_go_with_the_repository_names_both_sides() {
        let path = "hf://datasets/o/n";
        let converted = &["a/train/0000.parquet", "b/train/0000.parquet"][..];
        let error = |request: &DatasetRequest, main: &[&str], converted| {
            select_of(request, main, converted)
                .expect_err("refused")
                .to_string()
        };
        let both = "`datasets/o/n` has several configurations: `a`, `b`";
        assert_eq!(
            error(
                &request(path, None, &["train"]),
                &["x.json"],
                Some(converted)
            ),
            both
        );
        let other = "`datasets/o/n` has no configuration `c`, it has: `a`, `b`";
        assert_eq!(
            error(
                &request(path, Some("c"), &["train"]),
                &["x.json"],
                Some(converted)
            ),
            other
        );
        let split = "`hf://datasets/o/n` has no split `dev` in configuration `a`, it has: `train`";
        assert_eq!(
            error(
                &request(path, Some("a"), &["dev"]),
                &["x.json"],
                Some(converted)
            ),
            split
        );
        let none = "`datasets/o/n` has no Parquet files and no branch `refs/convert/parquet`, it \
            has: `x.json`";
        assert_eq!(
            error(&request(path, None, &["train"]), &["x.json"], None),
            none
        );
        let tag = "`datasets/o/n@v1` has no Parquet files, it has: `x.json`; the Hub converts \
            `main` only, not `v1`";
        assert_eq!(
            error(
                &request("hf://datasets/o/n@v1", None, &["train"]),
                &["x.json"],
                None
            ),
            tag
        );
        let glob = "no Parquet file of `datasets/o/n` matches `data/*`, it has: `x.parquet`";
        assert_eq!(
            error(
                &request("hf://datasets/o/n/data/*", None, &["train"]),
                &["x.parquet"],
                None
            ),
            glob
        );
    }
}
