//! The JSON Schema of the recipe, for editors. It is made of what the reader says of each key as it
//! takes it, with the defaults and descriptions of [`keys`].
//!
//! The schema knows types, words and ranges. Only `check` knows that two values do not go together,
//! that a pattern is not a regular expression, what another trainer means by a word, and whether a
//! file exists. A recipe that the schema accepts has no fault of form. The reverse does not hold:
//! YAML 1.1 spellings such as `yes` and `1_000` are read here and marked by an editor.

use serde_json::{Map, Value, json};

use super::keys;
use super::notes::Notes;
use super::section::Value as Read;
use super::shape::Shape;
use super::tree::{Node, NodeValue};
use super::{Location, Recipe};

/// A key of the recipe, as the reader takes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    /// The section: empty at the top, `evaluation.datasets` for the elements of that list.
    pub section: String,
    /// The key.
    pub name: &'static str,
    /// The shape of its value.
    pub shape: Shape,
    /// Whether it is required.
    pub required: bool,
}

impl Key {
    /// Returns the dotted path, such as `adapter.r`.
    pub fn path(&self) -> String {
        if self.section.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}.{}", self.section, self.name)
        }
    }
}

/// Returns every key, in the order in which the reader takes them.
pub(super) fn known() -> Vec<Key> {
    let notes = Notes::describing();
    let kind = NodeValue::Map(std::collections::BTreeMap::new());
    let root = Node {
        place: Location::Override(String::new()),
        kind,
    };
    Read {
        name: String::new(),
        node: &root,
        notes: &notes,
    }
    .section(Recipe::take);
    notes.into_keys()
}

/// Returns whether the recipe has a key, such as `training.optimizer`.
pub(super) fn has(path: &str) -> bool {
    known().iter().any(|key| key.path() == path)
}

/// Returns the JSON Schema of a recipe, draft 2020-12.
pub fn schema() -> Value {
    let mut schema = section("", &known());
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rankine recipe",
        "description": "What `rankine train` does: a base model, the data and how an adapter is \
            trained.",
    });
    let mut whole = head.as_object().cloned().unwrap_or_default();
    whole.append(&mut schema);
    Value::Object(whole)
}

/// Returns the schema of a section, which allows no other keys.
fn section(name: &str, known: &[Key]) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in known.iter().filter(|key| key.section == name) {
        if key.required {
            required.push(json!(key.name));
        }
        properties.insert(key.name.to_owned(), property(key, known));
    }
    let mut schema = Map::new();
    schema.insert("type".into(), json!("object"));
    schema.insert("properties".into(), Value::Object(properties));
    schema.insert("additionalProperties".into(), json!(false));
    if !required.is_empty() {
        schema.insert("required".into(), Value::Array(required));
    }
    schema
}

fn property(key: &Key, known: &[Key]) -> Value {
    let path = key.path();
    let mut schema = match &key.shape {
        Shape::Section => {
            let mut inner = section(&path, known);
            inner.insert("type".into(), json!(["object", "null"]));
            Value::Object(inner)
        }
        Shape::Sections => {
            let kind = if key.required {
                json!("array")
            } else {
                json!(["array", "null"])
            };
            let items = section(&path, known);
            json!({"type": kind, "items": items, "minItems": u8::from(key.required)})
        }
        Shape::TextsOrSections => {
            let items = json!({"anyOf": [Shape::Text.schema(), section(&path, known)]});
            json!({"type": ["array", "null"], "items": items, "minItems": 0})
        }
        shape if key.required => shape.schema(),
        shape => shape.schema_or_blank(),
    };
    if let (Value::Object(schema), Some(words)) = (&mut schema, keys::of(&path)) {
        schema.insert("description".into(), json!(words.description));
        if let Some(default) = words.default {
            schema.insert(
                "default".into(),
                serde_json::from_str(default).unwrap_or_else(|_| json!(default)),
            );
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_of_the_reader_is_described_and_no_other() {
        let read: BTreeSet<String> = known().iter().map(Key::path).collect();
        let told: BTreeSet<String> = keys::KEYS
            .iter()
            .map(|words| words.key.to_owned())
            .collect();
        let missing: Vec<_> = read.difference(&told).collect();
        let stale: Vec<_> = told.difference(&read).collect();
        assert!(
            missing.is_empty() && stale.is_empty(),
            "add to src/recipe/keys.rs: {missing:?}; remove there: {stale:?}"
        );
        assert_eq!(keys::KEYS.len(), told.len(), "a key is told twice");
    }

    /// Every default is a valid value of its key.
    #[test]
    fn every_default_is_a_value() {
        for key in known() {
            let Some(default) = keys::of(&key.path()).and_then(|words| words.default) else {
                continue;
            };
            assert!(
                !key.required,
                "{} has a default and is required",
                key.path()
            );
            assert!(
                serde_json::from_str::<Value>(default).is_ok(),
                "{}: `{default}` is no JSON",
                key.path()
            );
        }
    }
}
