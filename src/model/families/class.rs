//! Defaults of transformers for keys that a config.json does not name, one class of configs per
//! family: `defaults.json` beside this file, which `tests/golden/make_defaults.py` writes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

static CLASSES: LazyLock<BTreeMap<String, Class>> = LazyLock::new(|| {
    let classes: BTreeMap<String, Map<String, Value>> =
        serde_json::from_str(include_str!("defaults.json"))
            .expect("the file is of this crate, and a test reads it");
    classes
        .into_iter()
        .map(|(family, defaults)| (family, Class::new(defaults)))
        .collect()
});

/// The keys of a family's configs, with defaults.
#[derive(Debug)]
pub(in crate::model) struct Class {
    keys: BTreeMap<String, Key>,
}

#[derive(Debug)]
struct Key {
    default: Value,
    takes_null: bool,
}

impl Class {
    /// Finds the class of a `model_type`.
    pub fn of(family: &str) -> Option<&'static Self> {
        CLASSES.get(family)
    }

    fn new(defaults: Map<String, Value>) -> Self {
        let key = |(name, default): (String, Value)| match name.strip_suffix('?') {
            Some(name) => (
                name.to_owned(),
                Key {
                    default,
                    takes_null: true,
                },
            ),
            None => (
                name,
                Key {
                    default,
                    takes_null: false,
                },
            ),
        };
        Self {
            keys: defaults.into_iter().map(key).collect(),
        }
    }

    /// Returns the default of a key.
    pub fn default(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|key| &key.default)
    }

    /// Returns every key with its default.
    pub fn defaults(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys
            .iter()
            .map(|(name, key)| (name.as_str(), &key.default))
    }

    /// Returns the default of a key that may not be null.
    pub fn refuses_null(&self, key: &str) -> Option<&Value> {
        self.keys
            .get(key)
            .filter(|key| !key.takes_null)
            .map(|key| &key.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_sizes_and_a_key_that_takes_null_says_so() {
        for (family, class) in &*CLASSES {
            for key in [
                "hidden_size",
                "vocab_size",
                "num_hidden_layers",
                "num_attention_heads",
                "max_position_embeddings",
            ] {
                assert!(
                    class.default(key).is_some_and(Value::is_u64),
                    "{family}: {key}"
                );
                assert!(class.refuses_null(key).is_some(), "{family}: {key}");
            }
        }
        let mistral = Class::of("mistral").expect("a family");
        assert_eq!(mistral.default("sliding_window"), Some(&Value::from(4096)));
        assert!(
            mistral.refuses_null("sliding_window").is_none()
                && mistral.default("layer_types").is_none()
        );
    }
}
