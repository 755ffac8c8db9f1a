//! Configurations of a dataset in the YAML metadata of its README.md
//! (<https://huggingface.co/docs/hub/datasets-manual-configuration>).

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// Valid name of a split.
pub(super) static SPLIT_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\w+(\.\w+)*$").expect("the pattern is valid"));

/// Returns the elements of `configs` in the YAML metadata of a README.md.
pub(super) fn configs_of(readme: &str) -> Result<Vec<Map<String, Value>>, String> {
    let mut lines = readme.lines();
    if lines.next() != Some("---") {
        return Ok(Vec::new());
    }
    let head: Vec<&str> = lines.by_ref().take_while(|line| *line != "---").collect();
    let first_line = |error: String| error.lines().next().unwrap_or_default().to_owned();
    let head = serde_yaml::from_str::<Value>(&head.join("\n"));
    let head = head.map_err(|error| {
        format!(
            "the YAML of README.md cannot be read: {}",
            first_line(error.to_string())
        )
    })?;
    match head.get("configs") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(configs)) => {
            let of = |config: &Value| {
                config
                    .as_object()
                    .cloned()
                    .ok_or("`configs` in README.md holds something else than tables")
            };
            Ok(configs.iter().map(of).collect::<Result<_, _>>()?)
        }
        Some(_) => Err("`configs` in README.md is no list".to_owned()),
    }
}

/// Returns the globs of each split in `data_files`, which is a string, a list, a map by split, or a
/// list of maps with `split` and `path`.
pub(super) fn patterns_of(
    config: &str,
    said: &Value,
) -> Result<Vec<(String, Vec<String>)>, String> {
    let wrong = || {
        format!(
            "`data_files` of configuration `{config}` in README.md is no path, list of paths, or \
            list of `split` and `path`"
        )
    };
    let paths = |value: &Value| match value {
        Value::String(path) => Ok(vec![path.clone()]),
        Value::Array(paths) => paths
            .iter()
            .map(|path| path.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect(),
        _ => Err(wrong()),
    };
    match said {
        Value::Object(splits) => splits
            .iter()
            .map(|(split, path)| Ok((split.clone(), paths(path)?)))
            .collect(),
        Value::Array(elements) if elements.iter().any(Value::is_object) => {
            let of = |element: &Value| {
                let split = element
                    .get("split")
                    .and_then(word)
                    .filter(|split| SPLIT_NAME.is_match(split))
                    .ok_or_else(wrong)?;
                Ok((split, paths(element.get("path").ok_or_else(wrong)?)?))
            };
            elements.iter().map(of).collect()
        }
        _ => Ok(vec![("train".to_owned(), paths(said)?)]),
    }
}

/// Reads a name in YAML, which may look like a number.
pub(super) fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
