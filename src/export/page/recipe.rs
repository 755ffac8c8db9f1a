//! The inputs of a run: every value of its recipe, and the hash of every file that it read or
//! wrote.

use serde_json::Value;

use super::html::Html;
use super::{RunRecord, said, table};

/// Kinds of inputs in the lock, with their names for the user.
const KINDS: [(&str, &str); 6] = [
    ("datasets", "data"),
    ("evaluation_datasets", "validation data"),
    ("base", "base"),
    ("tokenizer_and_config", "tokenizer and config"),
    ("chat_template", "chat template"),
    ("init_from", "adapter to go on from"),
];

/// Writes the resolved recipe; for several runs the differences come first.
pub(super) fn recipe(html: &mut Html, runs: &[RunRecord]) {
    html.element("section", &[], |section| {
        section.words("h2", &[], "Recipe");
        section.words(
            "p",
            &[("class", "note")],
            "Every value as it was used, defaults included.",
        );
        table::compared(section, runs, &table::rows(runs, values));
    });
}

/// Writes files and hashes; for several runs the differences come first.
pub(super) fn hashes(html: &mut Html, runs: &[RunRecord]) {
    html.element("section", &[("class", "hashes")], |section| {
        section.words("h2", &[], "Files");
        section.words(
            "p",
            &[("class", "note")],
            "What was read, by its blake3 when the run started.",
        );
        table::compared(section, runs, &table::rows(runs, read));
        if runs.iter().any(|run| !run.written.is_empty()) {
            section.words(
                "p",
                &[("class", "note")],
                "What the run left, by its blake3 when this page was written.",
            );
            table::compared(section, runs, &table::rows(runs, |run| run.written.clone()));
        }
    });
}

fn values(run: &RunRecord) -> Vec<(String, String)> {
    let mut values = Vec::new();
    if let Some(recipe) = run.lock.get("recipe") {
        flatten("", recipe, &mut values);
    }
    values
}

/// Flattens a value to its leaves by dotted keys; a list without sections is one leaf.
pub(in crate::export) fn flatten(key: &str, value: &Value, values: &mut Vec<(String, String)>) {
    let below = |name: &str| {
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        }
    };
    match value {
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .for_each(|(name, value)| flatten(&below(name), value, values)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| flatten(&below(&index.to_string()), value, values));
        }
        value => values.push((key.to_owned(), said(value))),
    }
}

fn read(run: &RunRecord) -> Vec<(String, String)> {
    let hashes = run.lock.get("blake3");
    let of_kind = |(kind, words): (&str, &str)| {
        let files = hashes
            .and_then(|hashes| hashes.get(kind))
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        files
            .map(|(path, hash)| (format!("{words}: {path}"), said(hash)))
            .collect::<Vec<_>>()
    };
    KINDS.into_iter().flat_map(of_kind).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_recipe_is_its_leaves() {
        let recipe = json!({
            "a": {"b": [1, 2], "c": {}},
            "datasets": [{"path": "x"}, {"path": "y"}],
            "n": 1e-8,
        });
        let mut values = Vec::new();
        flatten("", &recipe, &mut values);
        let said: Vec<String> = values
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            said,
            [
                "a.b=[1,2]",
                "a.c={}",
                "datasets.0.path=x",
                "datasets.1.path=y",
                "n=1e-8"
            ]
        );
    }
}
