//! Assignment of a dataset's files to configurations and splits, by the rules of Python's
//! `datasets` (<https://github.com/huggingface/datasets/blob/main/src/datasets/data_files.py> and
//! `utils/metadata.py`): the `configs` of README.md, otherwise the names of folders and files.
//!
//! Also the layout of the Parquet copies that the Hub makes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use glob::{MatchOptions, Pattern};
use regex::Regex;
use serde_json::{Map, Value};

use super::dataset_card::{SPLIT_NAME, configs_of, patterns_of, word};

/// Words in the names of folders and files that name a split.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Characters that may stand beside such a word.
const BESIDE: &str = "[-._ 0-9]";
/// Name of the only configuration, if nothing names one.
const DEFAULT: &str = "default";
/// Files without rows.
const NO_DATA: [&str; 6] = [
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dummy_data.zip",
    "dataset_dict.json",
];
/// Extensions of files with rows. The most frequent one of a configuration is its format.
const DATA: [&str; 12] = [
    "parquet", "json", "jsonl", "ndjson", "csv", "tsv", "txt", "arrow", "xml", "tar", "zip", "hdf5",
];
const PARQUET: &str = "parquet";
const PARTIAL: &str = "partial-";
/// Name of a shard, `data/SPLIT-00000-of-00001-HASH.parquet`.
static SHARD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^data/([^/]+)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*$").expect("the pattern is valid")
});

/// A split with its Parquet files, in the order in which their rows are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSplit {
    /// Name, such as `train`.
    pub name: String,
    /// Names of the files in the repository.
    pub files: Vec<String>,
    /// Whether the Hub has converted only a part of the rows.
    pub is_partial: bool,
}

/// A configuration, the Hub's term for a subset of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    pub name: String,
    /// Whether the repository calls it the default.
    pub is_usual: bool,
    /// Splits; those in other formats than Parquet have no files.
    pub splits: Vec<DatasetSplit>,
}

impl Config {
    pub fn has_parquet(&self) -> bool {
        !self.splits.is_empty() && self.splits.iter().all(|split| !split.files.is_empty())
    }
}

/// Returns the configurations of a repository with these files; `readme` is its README.md.
///
/// # Errors
/// The `configs` of README.md cannot be read; the error says why.
pub(super) fn of_repository(names: &[String], readme: Option<&str>) -> Result<Vec<Config>, String> {
    let names: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| is_data(name))
        .collect();
    let said = readme.map(configs_of).transpose()?.unwrap_or_default();
    if said.is_empty() {
        let splits = as_parquet(by_names(&names)?);
        return Ok(vec![Config {
            name: DEFAULT.to_owned(),
            is_usual: false,
            splits,
        }]);
    }
    let config = |said: &Map<String, Value>| {
        let name = said
            .get("config_name")
            .and_then(word)
            .ok_or("an element of `configs` in README.md has no `config_name`")?;
        let folder = said
            .get("data_dir")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .trim_matches('/');
        let (inside, prefix) = match folder.trim_start_matches("./") {
            "" => (names.clone(), String::new()),
            folder => (
                names
                    .iter()
                    .filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/'))
                    .collect(),
                format!("{folder}/"),
            ),
        };
        let splits = match said.get("data_files") {
            None | Some(Value::Null) => by_names(&inside)?,
            Some(files) => by_patterns(&patterns_of(&name, files)?, &inside)?,
        };
        let whole = |(split, files): (String, Vec<String>)| {
            (
                split,
                files.iter().map(|file| format!("{prefix}{file}")).collect(),
            )
        };
        let is_usual =
            name == DEFAULT || said.get("default").and_then(Value::as_bool) == Some(true);
        Ok(Config {
            name,
            is_usual,
            splits: as_parquet(splits.into_iter().map(whole).collect()),
        })
    };
    said.iter().map(config).collect()
}

/// Returns the configurations of the branch with the Hub's Parquet copies:
/// `CONFIG/SPLIT/0000.parquet`, or `CONFIG/partial-SPLIT/0000.parquet` for a dataset that is too
/// large (<https://huggingface.co/docs/dataset-viewer/parquet>).
pub(super) fn of_conversion(names: &[String]) -> Vec<Config> {
    let mut configs: BTreeMap<&str, BTreeMap<&str, DatasetSplit>> = BTreeMap::new();
    let mut names: Vec<&String> = names
        .iter()
        .filter(|name| name.ends_with(".parquet"))
        .collect();
    names.sort();
    for name in names {
        let [config, folder, _] = name.split('/').collect::<Vec<_>>()[..] else {
            continue;
        };
        let (split, is_partial) = folder
            .strip_prefix(PARTIAL)
            .map_or((folder, false), |split| (split, true));
        let new = || DatasetSplit {
            name: split.to_owned(),
            files: Vec::new(),
            is_partial,
        };
        let of = configs
            .entry(config)
            .or_default()
            .entry(split)
            .or_insert_with(new);
        // If both exist, the whole split counts.
        match (of.is_partial, is_partial) {
            (true, false) => {
                *of = DatasetSplit {
                    files: vec![name.clone()],
                    ..new()
                }
            }
            (false, true) => {}
            _ => of.files.push(name.clone()),
        }
    }
    let config = |(name, splits): (&str, BTreeMap<&str, DatasetSplit>)| Config {
        name: name.to_owned(),
        is_usual: name == DEFAULT,
        splits: splits.into_values().collect(),
    };
    configs.into_iter().map(config).collect()
}

/// Returns whether all Parquet files have the layout of the Hub's copies.
pub(super) fn is_conversion(names: &[String]) -> bool {
    let lies_so = |name: &&String| {
        let stem = name
            .strip_suffix(".parquet")
            .and_then(|stem| stem.rsplit_once('/'));
        stem.is_some_and(|(folder, stem)| {
            folder.matches('/').count() == 1 && stem.len() == 4 && stem.parse::<u32>().is_ok()
        })
    };
    let mut parquet = names
        .iter()
        .filter(|name| name.ends_with(".parquet"))
        .peekable();
    parquet.peek().is_some()
        && parquet.all(|name| lies_so(&name))
        && !names.iter().any(|name| name == "README.md")
}

/// Returns the Parquet files that match a glob, sorted.
///
/// # Errors
/// The glob is invalid; the error says why.
pub(super) fn of_glob(names: &[String], glob: &str) -> Result<Vec<String>, String> {
    let names: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with(".parquet"))
        .collect();
    matching(glob, &names)
}

/// Splits with all their files, of any format.
type Files = Vec<(String, Vec<String>)>;

fn by_patterns(splits: &[(String, Vec<String>)], names: &[&str]) -> Result<Files, String> {
    let of = |(split, patterns): &(String, Vec<String>)| {
        let mut files: Vec<String> = Vec::new();
        for pattern in patterns {
            if pattern.contains("://") {
                return Err(format!(
                    "README.md names `{pattern}`, which is not in the repository"
                ));
            }
            let new = matching(pattern.trim_start_matches("./"), names)?;
            files.extend(
                new.into_iter()
                    .filter(|name| !files.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        Ok((split.clone(), files))
    };
    splits.iter().map(of).collect()
}

/// Returns the splits named by folders and files, otherwise all files as `train`.
fn by_names(names: &[&str]) -> Result<Files, String> {
    let shards = shards(names);
    if !shards.is_empty() {
        return Ok(shards);
    }
    let of_folders = |word: &str| {
        vec![
            format!("**/{word}/**"),
            format!("**/{word}{BESIDE}*/**"),
            format!("**/*{BESIDE}{word}/**"),
            format!("**/*{BESIDE}{word}{BESIDE}*/**"),
        ]
    };
    let of_files = |word: &str| {
        vec![
            format!("**/{word}{BESIDE}*"),
            format!("**/*{BESIDE}{word}{BESIDE}*"),
        ]
    };
    let patterns = |of: &dyn Fn(&str) -> Vec<String>| {
        let split = |(split, words): &(&str, &[&str])| {
            (
                (*split).to_owned(),
                words.iter().flat_map(|word| of(word)).collect(),
            )
        };
        KEYWORDS.iter().map(split).collect::<Vec<_>>()
    };
    for patterns in [patterns(&of_folders), patterns(&of_files)] {
        let mut splits = by_patterns(&patterns, names)?;
        splits.retain(|(_, files)| !files.is_empty());
        if !splits.is_empty() {
            return Ok(splits);
        }
    }
    by_patterns(&[("train".to_owned(), vec!["**".to_owned()])], names)
}

/// Returns the splits of `data/SPLIT-00000-of-00001.parquet`, the usual ones first.
fn shards(names: &[&str]) -> Files {
    let mut splits: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    for name in names {
        if let Some(split) = SHARD
            .captures(name)
            .map(|found| found[1].to_owned())
            .filter(|split| SPLIT_NAME.is_match(split))
        {
            let rank = KEYWORDS
                .iter()
                .position(|(usual, _)| *usual == split)
                .unwrap_or(KEYWORDS.len());
            splits
                .entry((rank, split))
                .or_default()
                .push((*name).to_owned());
        }
    }
    let sorted = |((_, split), mut files): ((usize, String), Vec<String>)| {
        files.sort();
        (split, files)
    };
    splits.into_iter().map(sorted).collect()
}

/// Returns the names that match a glob, sorted. Files in folders that begin with `.` or `__` match
/// only if the glob names such a folder.
fn matching(pattern: &str, names: &[&str]) -> Result<Vec<String>, String> {
    let options = MatchOptions {
        require_literal_separator: true,
        ..MatchOptions::default()
    };
    let glob =
        Pattern::new(pattern).map_err(|error| format!("`{pattern}` is not a glob: {error}"))?;
    let hidden = |path: &str| {
        path.split('/')
            .filter(|part| part.starts_with('.') && part.chars().any(|c| c != '.'))
            .count()
    };
    let apart = |path: &str| {
        path.rsplit_once('/').map_or(0, |(folders, _)| {
            folders
                .split('/')
                .filter(|part| part.starts_with("__"))
                .count()
        })
    };
    let is_asked_for =
        |name: &&&str| hidden(name) == hidden(pattern) && apart(name) == apart(pattern);
    let found = names
        .iter()
        .filter(|name| glob.matches_with(name, options))
        .filter(is_asked_for);
    let mut found: Vec<String> = found.map(|name| (*name).to_owned()).collect();
    found.sort();
    Ok(found)
}

fn is_data(name: &str) -> bool {
    !NO_DATA.contains(&name.rsplit('/').next().unwrap_or(name)) && form(name).is_some()
}

/// Returns the format of a file by its name.
fn form(name: &str) -> Option<&'static str> {
    let ends = name.rsplit('/').next().unwrap_or(name).split('.').skip(1);
    ends.filter_map(|end| DATA.into_iter().find(|form| end.eq_ignore_ascii_case(form)))
        .last()
}

/// Keeps the Parquet files of the splits. If most files have another format, the splits have no
/// files.
fn as_parquet(splits: Files) -> Vec<DatasetSplit> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in splits.iter().flat_map(|(_, files)| files) {
        *counts.entry(form(name).unwrap_or_default()).or_default() += 1;
    }
    let parquet = counts.get(PARQUET).copied().unwrap_or(0);
    let is_parquet = parquet > 0 && counts.values().all(|count| *count <= parquet);
    let split = |(name, mut files): (String, Vec<String>)| {
        files.retain(|file| is_parquet && file.ends_with(".parquet"));
        DatasetSplit {
            name,
            files,
            is_partial: false,
        }
    };
    splits.into_iter().map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Formats each split as `config/split: files`, with `..` if the Hub has converted only a part.
    fn shown(configs: &[Config]) -> Vec<String> {
        let split = |config: &Config, split: &DatasetSplit| {
            let part = if split.is_partial { ".." } else { "" };
            format!(
                "{}/{}: {}{part}",
                config.name,
                split.name,
                split.files.join(" ")
            )
        };
        configs
            .iter()
            .flat_map(|config| {
                config
                    .splits
                    .iter()
                    .map(|of| split(config, of))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn of(files: &[&str], readme: Option<&str>) -> Vec<String> {
        shown(&of_repository(&names(files), readme).expect("a layout"))
    }

    /// Expected values are those of `get_data_patterns` in `datasets` 5.2.0 for folders with these
    /// files, except where some files are not Parquet.
    #[test]
    fn names_tell_the_splits_as_in_datasets() {
        for (files, expected) in [
            (
                &[
                    "data/test-00000-of-00001.parquet",
                    "data/extra-00000-of-00001-abc.parquet",
                    "data/train-00001-of-00002.parquet",
                    "data/train-00000-of-00002.parquet",
                    "other/train.parquet",
                ][..],
                &[
                    "default/train: data/train-00000-of-00002.parquet \
                    data/train-00001-of-00002.parquet",
                    "default/test: data/test-00000-of-00001.parquet",
                    "default/extra: data/extra-00000-of-00001-abc.parquet",
                ][..],
            ),
            (
                &["train.parquet", "valid.parquet", "my_test_1.parquet"],
                &[
                    "default/train: train.parquet",
                    "default/validation: valid.parquet",
                    "default/test: my_test_1.parquet",
                ],
            ),
            (
                &[
                    "train/0.parquet",
                    "dev/0.parquet",
                    "sub/eval/x.parquet",
                    "test.parquet",
                ],
                &[
                    "default/train: train/0.parquet",
                    "default/validation: dev/0.parquet",
                    "default/test: sub/eval/x.parquet",
                ],
            ),
            (
                &[
                    "en/train-00000-of-00001.parquet",
                    "fr/train-00000-of-00001.parquet",
                ],
                &["default/train: en/train-00000-of-00001.parquet fr/train-00000-of-00001.parquet"],
            ),
            (
                &["b.parquet", "a.parquet", "README.md", "dataset_infos.json"],
                &["default/train: a.parquet b.parquet"],
            ),
            (
                &[
                    "trained.parquet",
                    ".cache/train.parquet",
                    "__x/train.parquet",
                ],
                &["default/train: trained.parquet"],
            ),
            (
                &["trainer/x.parquet", "testing_1/y.parquet", "a-val.parquet"],
                &["default/test: testing_1/y.parquet"],
            ),
            (
                &["train2/x.parquet", "x.train.parquet"],
                &["default/train: train2/x.parquet"],
            ),
            (
                &["sub/train.parquet", "eval_set.parquet"],
                &[
                    "default/train: sub/train.parquet",
                    "default/test: eval_set.parquet",
                ],
            ),
            (
                &["train.jsonl", "test.jsonl", "x.parquet"],
                &["default/train: ", "default/test: "],
            ),
            (&["train.jsonl.gz"], &["default/train: "]),
            (&[], &["default/train: "]),
        ] {
            assert_eq!(of(files, None), expected, "{files:?}");
        }
    }

    #[test]
    fn readme_tells_configurations_and_splits() {
        let files = [
            "en/a.parquet",
            "en/b.parquet",
            "en/test/c.parquet",
            "fr/train.parquet",
            "fr/test.parquet",
            "raw/x.csv",
        ];
        let readme = "---\nlicense: mit\nconfigs:\n- config_name: en\n  data_files:\n  - split: \
            train\n    path: en/*.parquet\n  - split: test\n    path: [en/test/c.parquet]\n- \
            config_name: fr\n  data_dir: fr\n  default: true\n- config_name: 2024\n  data_files: \
            raw/*\n- config_name: list\n  data_files: [fr/train.parquet, en/a*, fr/t*]\n---\n# A \
            set\n";
        let expected = [
            "en/train: en/a.parquet en/b.parquet",
            "en/test: en/test/c.parquet",
            "fr/train: fr/train.parquet",
            "fr/test: fr/test.parquet",
            "2024/train: ",
            "list/train: fr/train.parquet en/a.parquet fr/test.parquet",
        ];
        assert_eq!(of(&files, Some(readme)), expected);
        let configs = of_repository(&names(&files), Some(readme)).expect("a layout");
        let usual: Vec<_> = configs
            .iter()
            .map(|config| (config.is_usual, config.has_parquet()))
            .collect();
        assert_eq!(
            usual,
            [(false, true), (true, true), (false, false), (false, true)]
        );
        for readme in [
            "# no head",
            "---\nlicense: mit\n---\n",
            "---\nconfigs: []\n---",
        ] {
            assert_eq!(
                of(&["train.parquet"], Some(readme)),
                ["default/train: train.parquet"],
                "{readme}"
            );
        }
    }

    #[test]
    fn a_readme_that_cannot_be_read_is_told() {
        for (configs, part) in [
            ("configs: 3", "`configs` in README.md is no list"),
            ("configs: [x]", "holds something else than tables"),
            ("configs: [{data_files: x}]", "has no `config_name`"),
            (
                "configs: [{config_name: a, data_files: 3}]",
                "`data_files` of configuration `a` in README.md is no path",
            ),
            (
                "configs: [{config_name: a, data_files: [{split: a-b, path: x}]}]",
                "is no path",
            ),
            (
                "configs: [{config_name: a, data_files: 'https://x/y.parquet'}]",
                "which is not in the repository",
            ),
            (
                "configs: [{config_name: a, data_files: 'x**'}]",
                "`x**` is not a glob",
            ),
            ("configs: [", "the YAML of README.md cannot be read"),
        ] {
            let error = of_repository(
                &names(&["a.parquet"]),
                Some(&format!("---\n{configs}\n---\n")),
            )
            .expect_err(configs);
            assert!(error.contains(part), "{configs}: {error}");
        }
    }

    #[test]
    fn what_the_hub_converts_lies_by_configuration_and_split() {
        let files = names(&[
            ".gitattributes",
            "big/partial-train/0001.parquet",
            "big/partial-train/0000.parquet",
            "big/test/0000.parquet",
            "small/train/0000.parquet",
            "small/train/index.duckdb",
        ]);
        let expected = [
            "big/test: big/test/0000.parquet",
            "big/train: big/partial-train/0000.parquet big/partial-train/0001.parquet..",
            "small/train: small/train/0000.parquet",
        ];
        assert_eq!(shown(&of_conversion(&files)), expected);
        assert!(
            is_conversion(&files)
                && !is_conversion(&names(&["train.parquet"]))
                && !is_conversion(&[])
        );
    }

    #[test]
    fn a_glob_finds_parquet_files_alone() {
        let files = names(&[
            "data/b.parquet",
            "data/a.parquet",
            "data/a.jsonl",
            "x/data/c.parquet",
        ]);
        assert_eq!(
            of_glob(&files, "data/*").expect("a glob"),
            ["data/a.parquet", "data/b.parquet"]
        );
        assert_eq!(
            of_glob(&files, "**/c.parquet").expect("a glob"),
            ["x/data/c.parquet"]
        );
        assert!(of_glob(&files, "***").is_err());
    }
}
