//! The location of a config's data, and the rows to take. Data sets of the Hub are named as such.
//! Of other data Rankine reads Parquet; anything elsewhere or in another form is named by the path
//! where it is looked for.

use std::path::Path;

use super::super::split::Split;
use crate::fault::yaml_word;

/// File extensions of data that a recipe reads without a task for the user.
const READ_FORMS: [&str; 13] = [
    ".parquet",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".ndjson",
    ".json",
    ".json.gz",
    ".json.zst",
    ".csv",
    ".csv.gz",
    ".csv.zst",
    ".tsv",
    ".tsv.gz",
];
/// File extensions of data in other forms, which are written anew where their rows must change.
const OTHER_FORMS: [&str; 9] = [
    ".jsonl.zst",
    ".jsonl.gz",
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".arrow",
    ".zst",
];

/// A path for the recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    /// The value of `datasets.path`, quoted.
    pub path: String,
    /// The task for the user: what to put at the path. `None` if the path is that of the config.
    pub task: Option<String>,
}

impl Located {
    /// Returns whether the data still have to be written, so that a choice of rows or a layout can
    /// be a part of that task.
    pub fn is_open(&self) -> bool {
        self.task.is_some()
    }
}

/// The part of a data set that a config selects.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part<'a> {
    pub config: Option<&'a str>,
    pub split: Option<&'a str>,
    pub revision: Option<&'a str>,
    pub files: &'a [String],
}

/// Returns a data set of the Hub as `datasets.path` names it; `None` if the path is no id, or the
/// recipe cannot express the part.
pub(super) fn on_hub(path: &str, part: Part, folder: &Path) -> Option<Located> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let (owner, name) = path
        .split_once('/')
        .filter(|(owner, name)| is_word(owner) && is_word(name))?;
    let is_file = path.ends_with(".parquet") || OTHER_FORMS.iter().any(|end| path.ends_with(end));
    if is_file
        || folder.join(path).exists()
        || part.split.is_some_and(|split| Split::parse(split).is_err())
    {
        return None;
    }
    let files = match part.files {
        [] => String::new(),
        [file] if file.ends_with(".parquet") && !file.contains("://") && part.config.is_none() => {
            format!("/{file}")
        }
        _ => return None,
    };
    let revision = part
        .revision
        .map_or_else(String::new, |revision| format!("@{revision}"));
    Some(Located {
        path: yaml_word(&format!("hf://datasets/{owner}/{name}{revision}{files}")),
        task: None,
    })
}

/// Returns whether a recipe can name this split of local data: a slice of `train`.
pub(super) fn is_slice(split: &str) -> bool {
    Split::parse(split).is_ok_and(|split| {
        split.parts.len() == 1
            && split.parts[0].name() == Split::TRAIN
            && split.written != Split::TRAIN
    })
}

impl Located {
    /// Returns whether this is a data set of the Hub.
    pub fn is_of_hub(&self) -> bool {
        self.path.trim_start_matches('"').starts_with("hf://")
    }

    /// Returns the lines of a recipe's dataset that name it.
    pub fn lines(&self, part: Part) -> Vec<(&'static str, String)> {
        let config = part
            .config
            .filter(|_| self.is_of_hub())
            .map(|config| ("config", yaml_word(config)));
        let split = part
            .split
            .filter(|split| self.is_of_hub() && *split != Split::TRAIN || is_slice(split));
        let split = split.map(|split| ("split", yaml_word(split)));
        [("path", self.path.clone())]
            .into_iter()
            .chain(config)
            .chain(split)
            .collect()
    }
}

/// Returns a local file that a recipe reads as it is; `None` for any other path.
pub(super) fn local_file(path: &str) -> Option<Located> {
    let is_file = !path.contains("://") && READ_FORMS.iter().any(|end| path.ends_with(end));
    is_file.then(|| Located {
        path: yaml_word(path),
        task: None,
    })
}

/// Returns where the data of a path or Hub id are looked for, once the user put them there.
pub(super) fn locate(path: &str, folder: &Path) -> Located {
    let is_there = folder.join(path).exists();
    if let Some(table) = local_file(path).filter(|_| path.ends_with(".parquet")) {
        return table;
    }
    if let Some(stem) = OTHER_FORMS
        .iter()
        .find_map(|end| path.strip_suffix(end))
        .filter(|_| !path.contains("://"))
    {
        return Located {
            path: yaml_word(&format!("{stem}.parquet")),
            task: Some(format!("write `{path}` there as Parquet")),
        };
    }
    if is_there || path.starts_with(['.', '/', '~']) {
        return Located {
            path: yaml_word(path),
            task: None,
        };
    }
    let inside: String = path
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-/".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let inside: Vec<&str> = inside
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".." && *part != ".")
        .collect();
    let task = if path.contains("://") {
        format!("fetch `{path}` and put its Parquet files there")
    } else {
        format!(
            "fetch the Hub data set `{path}` and put its Parquet files there (every public one has \
            them under the revision `refs/convert/parquet`)"
        )
    };
    Located {
        path: yaml_word(&format!("datasets/{}", inside.join("/"))),
        task: Some(task),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_sets_of_the_hub_are_named_with_their_part() {
        let nowhere = Path::new("nowhere");
        let at = |path: &str, part: Part| on_hub(path, part, nowhere).map(|located| located.path);
        let none = Part::default();
        assert_eq!(
            at("tatsu-lab/alpaca", none).as_deref(),
            Some("\"hf://datasets/tatsu-lab/alpaca\"")
        );
        let files = ["data/train-*.parquet".to_owned()];
        let part = Part {
            revision: Some("v1"),
            files: &files,
            ..none
        };
        assert_eq!(
            at("a/b", part).as_deref(),
            Some("\"hf://datasets/a/b@v1/data/train-*.parquet\"")
        );
        for path in [
            "squad",
            "a/b/c",
            "./a",
            "a/b.jsonl",
            "a/b.parquet",
            "s3://a/b",
            "/a/b",
            "../b",
        ] {
            assert_eq!(at(path, none), None, "{path}");
        }
        let files = ["train.jsonl".to_owned()];
        assert_eq!(
            at(
                "a/b",
                Part {
                    files: &files,
                    ..none
                }
            ),
            None
        );
        assert_eq!(
            at(
                "a/b",
                Part {
                    split: Some("train[:5%](x)"),
                    ..none
                }
            ),
            None
        );
        let part = Part {
            config: Some("en"),
            split: Some("train[:20%]"),
            ..none
        };
        let lines = on_hub("a/b", part, nowhere).expect("an id").lines(part);
        let expected = [
            ("path", "\"hf://datasets/a/b\""),
            ("config", "en"),
            ("split", "\"train[:20%]\""),
        ];
        assert_eq!(
            lines
                .iter()
                .map(|(key, value)| (*key, &**value))
                .collect::<Vec<_>>(),
            expected
        );
        let local = locate("d.parquet", nowhere);
        assert_eq!(
            local
                .lines(Part {
                    split: Some("train[5:]"),
                    ..none
                })
                .len(),
            2
        );
        assert_eq!(
            local
                .lines(Part {
                    split: Some("train"),
                    config: Some("x"),
                    ..none
                })
                .len(),
            1
        );
    }

    #[test]
    fn data_are_looked_for_where_they_can_be_put() {
        let read = |path: &str| local_file(path).map(|located| located.path);
        assert_eq!(
            read("data/train.jsonl.gz").as_deref(),
            Some("data/train.jsonl.gz")
        );
        assert_eq!(read("a b.csv").as_deref(), Some("\"a b.csv\""));
        for path in ["a/b", "s3://a/b.jsonl", "a.txt", "a.arrow"] {
            assert_eq!(read(path), None, "{path}");
        }
        let at = |path: &str| locate(path, Path::new("nowhere")).path;
        assert_eq!(at("tatsu-lab/alpaca"), "datasets/tatsu-lab/alpaca");
        assert_eq!(at("s3://bucket/../x y"), "datasets/s3-/bucket/x-y");
        assert_eq!(at("data/train.jsonl.gz"), "data/train.parquet");
        assert_eq!(at("my data.parquet"), "\"my data.parquet\"");
        assert!(
            !locate("./folder", Path::new("nowhere")).is_open()
                && locate("a/b", Path::new("nowhere")).is_open()
        );
    }
}
