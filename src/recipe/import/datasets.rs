//! Where the data of a config are. Rankine reads Parquet; what lies elsewhere or in another form is named by the path where it is looked for.

use std::path::Path;

use super::text::quoted;

/// File names that are data of another form.
const OTHER_FORMS: [&str; 9] = [".jsonl.zst", ".jsonl.gz", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".arrow", ".zst"];

/// A path for the recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    /// What `datasets.path` says, quoted.
    pub path: String,
    /// What has to be put there; `None` where the path is that of the config.
    pub task: Option<String>,
}

impl Located {
    /// Whether the data still have to be written, so that a choice of rows or a layout can be a part of that.
    pub fn is_open(&self) -> bool {
        self.task.is_some()
    }
}

/// Where data of a path or Hub id are looked for.
pub(super) fn locate(path: &str, folder: &Path) -> Located {
    let is_there = folder.join(path).exists();
    if path.ends_with(".parquet") && !path.contains("://") {
        return Located { path: quoted(path), task: None };
    }
    if let Some(stem) = OTHER_FORMS.iter().find_map(|end| path.strip_suffix(end)).filter(|_| !path.contains("://")) {
        return Located { path: quoted(&format!("{stem}.parquet")), task: Some(format!("write `{path}` there as Parquet")) };
    }
    if is_there || path.starts_with(['.', '/', '~']) {
        return Located { path: quoted(path), task: None };
    }
    let inside: String = path.chars().map(|c| if c.is_ascii_alphanumeric() || "._-/".contains(c) { c } else { '-' }).collect();
    let inside: Vec<&str> = inside.split('/').filter(|part| !part.is_empty() && *part != ".." && *part != ".").collect();
    let task = if path.contains("://") {
        format!("fetch `{path}` and put its Parquet files there")
    } else {
        format!(
            "fetch the Hub data set `{path}` and put its Parquet files there (every public one has them under the revision `refs/convert/parquet`)"
        )
    };
    Located { path: quoted(&format!("datasets/{}", inside.join("/"))), task: Some(task) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_looked_for_where_they_can_be_put() {
        let at = |path: &str| locate(path, Path::new("nowhere")).path;
        assert_eq!(at("tatsu-lab/alpaca"), "datasets/tatsu-lab/alpaca");
        assert_eq!(at("s3://bucket/../x y"), "datasets/s3-/bucket/x-y");
        assert_eq!(at("data/train.jsonl.gz"), "data/train.parquet");
        assert_eq!(at("my data.parquet"), "\"my data.parquet\"");
        assert!(!locate("./folder", Path::new("nowhere")).is_open() && locate("a/b", Path::new("nowhere")).is_open());
    }
}
