//! Redacts a lock for other people: facts about the run stay, and paths on this machine go.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value, json};

/// Keys that only say where things are on this machine.
const PLACES: [&str; 2] = ["command", "working_directory"];

/// The key of sentences that name files.
const FORCED: &str = "forced";
/// An absolute path in a sentence, up to the end of what may be a path.
static PATH: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?P<before>^|[\s`])(?P<path>(?:~?/|[A-Za-z]:[\\/]|\\\\)[^`,]*)")
        .expect("the pattern is valid")
});

/// An absolute path in a command or a value.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?P<before>^|[\s=`'"(\[,{:])(?P<path>(?:~?/|[A-Za-z]:[\\/]|\\\\)[^\s`'",\]})]*)"#)
        .expect("the pattern is valid")
});

/// Shortens every absolute path in a command or a sentence to its last part.
pub fn text(text: &str) -> String {
    let shortened = |found: &Captures| format!("{}{}", &found["before"], end(&found["path"], 1));
    WORD.replace_all(text, shortened).into_owned()
}

/// Shortens absolute paths, in values and in keys, to as much of their ends as is needed to tell
/// them apart.
pub fn map(entries: &Map<String, Value>) -> Map<String, Value> {
    let mut portable = Map::new();
    for (key, entry) in entries
        .iter()
        .filter(|(key, _)| !PLACES.contains(&key.as_str()))
    {
        let mut parts = 1;
        while parts < 64 && portable.contains_key(&end(key, parts)) {
            parts += 1;
        }
        portable.insert(
            end(key, parts),
            if key == FORCED {
                told(entry)
            } else {
                value(entry)
            },
        );
    }
    portable
}

fn value(of: &Value) -> Value {
    match of {
        Value::Object(entries) => Value::Object(map(entries)),
        Value::Array(items) => items.iter().map(value).collect(),
        Value::String(text) => Value::String(end(text, 1)),
        other => other.clone(),
    }
}

/// Shortens every path in sentences.
fn told(of: &Value) -> Value {
    let shortened = |found: &Captures| format!("{}{}", &found["before"], end(&found["path"], 1));
    let line = |text: &str| PATH.replace_all(text, shortened).into_owned();
    of.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|text| json!(line(text)))
        .collect()
}

/// Returns the last parts of an absolute path; any other text stays as it is.
fn end(text: &str, parts: usize) -> String {
    let is_drive = text.as_bytes().get(1) == Some(&b':')
        && matches!(text.as_bytes().get(2), Some(b'\\' | b'/'));
    if !text.starts_with(['/', '\\', '~']) && !is_drive {
        return text.to_owned();
    }
    let names: Vec<&str> = text
        .split(['/', '\\'])
        .filter(|name| !name.is_empty())
        .collect();
    names[names.len().saturating_sub(parts)..].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_the_last_parts_of_its_paths() {
        let command = "rankine train /home/anna/recipe.yaml output_dir=/home/anna/b \
            'base_model=C:\\a\\m' data/x.parquet a=[~/b,'/c/d']";
        assert_eq!(
            text(command),
            "rankine train recipe.yaml output_dir=b 'base_model=m' data/x.parquet a=[b,'d']"
        );
        assert_eq!(text("1/2 and a:b"), "1/2 and a:b");
    }

    #[test]
    fn places_go_and_names_stay() {
        let lock = json!({
            "command": "rankine train /home/anna/recipe.yaml",
            "working_directory": "/home/anna",
            "recipe_file": "/home/anna/recipe.yaml",
            "threads": 2,
            "recipe": {
                "base_model": "owner/name",
                "datasets": [{"path": "data/rows.parquet"}],
                "output_dir": "C:\\runs\\a",
            },
            "resumed": [{"forced": [
                "data: `/home/anna/My Files/rows.parquet` has changed since the run started",
                "recipe: `output_dir` is /home/anna/b c, the run went on with C:\\runs\\a up to \
                its checkpoint",
                "recipe: `training.learning_rate` is 1e-3, the run went on with 1e-4 up to its \
                checkpoint",
            ]}],
            "blake3": {"datasets": {"/a/x/rows.parquet": "1", "/b/y/rows.parquet": "2"}},
        });
        let expected = json!({
            "recipe_file": "recipe.yaml",
            "threads": 2,
            "recipe": {
                "base_model": "owner/name",
                "datasets": [{"path": "data/rows.parquet"}],
                "output_dir": "a",
            },
            "resumed": [{"forced": [
                "data: `rows.parquet` has changed since the run started",
                "recipe: `output_dir` is b c, the run went on with a up to its checkpoint",
                "recipe: `training.learning_rate` is 1e-3, the run went on with 1e-4 up to its \
                checkpoint",
            ]}],
            "blake3": {"datasets": {"rows.parquet": "1", "y/rows.parquet": "2"}},
        });
        assert_eq!(
            Value::Object(map(lock.as_object().expect("an object"))),
            expected
        );
    }
}
