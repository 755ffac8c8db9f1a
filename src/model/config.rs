//! Reads config.json key by key, with errors that name the file, the key, the value and what was
//! expected. A key that the file does not name has the default of transformers, which differs from
//! family to family; the keys filled so can be listed.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ModelError;
use super::families::Class;
use crate::files::{JSON_BYTES, is_there, read_text_up_to};

/// The largest accepted size. No model has a larger one, and products of two sizes stay far within
/// 64 bits.
const LARGEST: usize = 1 << 24;

/// An open config.json.
#[derive(Debug, Clone)]
pub(super) struct ConfigJson {
    path: PathBuf,
    values: Map<String, Value>,
    /// The class whose defaults fill keys that the file does not name.
    class: Option<&'static Class>,
}

/// Returns what a folder without config.json is instead, and the next step.
fn instead_of_a_model(folder: &Path) -> (String, String) {
    let (holds, shown) = (|name: &str| folder.join(name).exists(), folder.display());
    let message =
        |what: &str| format!("there is no such file: the folder holds {what}, expected a model");
    match () {
        () if holds("adapters.safetensors") => (
            message("an adapter of mlx-lm"),
            "name the folder of the model that it was trained on; the adapter is not read"
                .to_owned(),
        ),
        () if holds("adapter_config.json") => (
            message("an adapter"),
            format!(
                "name the adapter with `--adapter {shown}`, or in a recipe with \
                `adapter.init_from`, and here its base"
            ),
        ),
        () if holds("model/config.json") => (
            message("a run of all weights"),
            format!("name its model, `{shown}/model`"),
        ),
        () if holds("adapter/adapter_config.json") => (
            message("a run"),
            format!(
                "name the run with `--adapter {shown}`, or in a recipe with \
                `adapter.init_from`, and here its base"
            ),
        ),
        () => (
            "there is no such file".to_owned(),
            "name the folder of a Hugging Face model: config.json, *.safetensors, tokenizer.json"
                .to_owned(),
        ),
    }
}

impl ConfigJson {
    /// Opens `config.json` in a base's folder.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        if !is_there(&path)? {
            let (message, hint) = instead_of_a_model(folder);
            return Err(ModelError::Config {
                path,
                message,
                hint: Some(hint),
            });
        }
        Self::read(&path)
    }

    /// Reads a config file of any name.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let fault = |message| {
            Err(ModelError::Config {
                path: path.to_owned(),
                message,
                hint: None,
            })
        };
        match serde_json::from_str(&read_text_up_to(path, JSON_BYTES)?) {
            Ok(Value::Object(values)) => Ok(Self {
                path: path.to_owned(),
                values,
                class: None,
            }),
            Ok(_) => fault("expected a JSON object".to_owned()),
            Err(error) => fault(format!("not valid JSON: {error}")),
        }
    }

    /// Makes an error about this file.
    pub fn fault(&self, message: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.path.clone(),
            message: message.into(),
            hint: None,
        }
    }

    /// Returns an object inside the file as a config of its own; `None` where it is absent or null.
    pub fn section(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                path: self.path.clone(),
                values: values.clone(),
                class: None,
            })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// Returns the config with a class whose defaults fill absent keys. Null is refused where the
    /// class does not allow it.
    ///
    /// # Errors
    /// A key is null that may not be.
    pub fn of_class(self, class: &'static Class) -> Result<Self, ModelError> {
        let idle = self
            .values
            .iter()
            .filter(|(_, value)| value.is_null())
            .find_map(|(key, _)| Some((key, class.refuses_null(key)?)));
        if let Some((key, default)) = idle {
            let hint = Some(format!("remove `{key}` for the default, `{default}`"));
            let message = format!("`{key}` is `null`, expected {}", kind_of(default));
            return Err(ModelError::Config {
                path: self.path.clone(),
                message,
                hint,
            });
        }
        Ok(Self {
            class: Some(class),
            ..self
        })
    }

    /// Returns a value that is not null: the file's, or the class's where the file does not name
    /// the key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let filled = || self.class.and_then(|class| class.default(key));
        self.values
            .get(key)
            .or_else(filled)
            .filter(|value| !value.is_null())
    }

    /// Returns the keys that the file names.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.values.keys()
    }

    /// Whether the file names the key, even as null.
    pub fn names(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Returns the keys of the class that the file does not name, with their defaults.
    pub fn filled(&self) -> Vec<(String, Value)> {
        let defaults = self.class.into_iter().flat_map(Class::defaults);
        let absent = defaults.filter(|(key, value)| !value.is_null() && !self.names(key));
        absent
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect()
    }

    /// Returns the first of these keys to which the file gives a value.
    pub fn first_named<'a>(&self, keys: &[&'a str]) -> Option<&'a str> {
        keys.iter()
            .copied()
            .find(|key| self.values.get(*key).is_some_and(|value| !value.is_null()))
    }

    /// Returns a whole number that must be there.
    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.size_or_none(key)?.ok_or_else(|| {
            self.fault(format!(
                "`{key}` is missing, expected a whole number from 1"
            ))
        })
    }

    /// Returns a whole number, if present.
    pub fn size_or_none(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let convert = |value: &Value| {
            let size = value
                .as_u64()
                .and_then(|size| usize::try_from(size).ok())
                .filter(|size| (1..=LARGEST).contains(size));
            size.ok_or_else(|| {
                self.wrong(key, &format!("a whole number from 1 to {LARGEST}"), value)
            })
        };
        self.get(key).map(convert).transpose()
    }

    /// Returns a whole number, or a default.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.size_or_none(key)?.unwrap_or(default))
    }

    /// Returns a whole number from 0 on, or a default.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.get(key).and_then(Value::as_u64) == Some(0) {
            Ok(0)
        } else {
            self.size_or(key, default)
        }
    }

    /// Returns the id of a token, if present; a negative one counts from the end of the vocabulary.
    pub fn token(&self, key: &str) -> Result<Option<isize>, ModelError> {
        let convert = |value: &Value| {
            let id = value
                .as_i64()
                .and_then(|id| isize::try_from(id).ok())
                .filter(|id| id.unsigned_abs() <= LARGEST);
            id.ok_or_else(|| self.wrong(key, "the number of a token", value))
        };
        self.get(key).map(convert).transpose()
    }

    /// Returns a list of layers, empty where it is absent.
    pub fn layers(&self, key: &str) -> Result<Vec<usize>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let layer = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let layers = value
            .as_array()
            .and_then(|layers| layers.iter().map(layer).collect());
        layers.ok_or_else(|| self.wrong(key, "a list of layers", value))
    }

    /// Returns a config of this file with other values.
    pub fn replaced(&self, values: Map<String, Value>) -> Self {
        Self {
            path: self.path.clone(),
            values,
            class: None,
        }
    }

    /// Returns the config with the values of another one, which take precedence.
    #[must_use]
    pub fn with_all(mut self, other: &Self) -> Self {
        self.values.extend(other.values.clone());
        self
    }

    /// Refuses a null value where transformers cannot compute with it.
    ///
    /// # Errors
    /// The key is null.
    pub fn not_null(&self, key: &str, expected: &str) -> Result<(), ModelError> {
        match self.values.get(key) {
            Some(value @ Value::Null) => Err(self.wrong(key, expected, value)),
            _ => Ok(()),
        }
    }

    /// Returns the config with another value.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.values.insert(key.to_owned(), value);
        self
    }

    /// Returns the config with the first key of each pair under the name of the second.
    #[must_use]
    pub fn renamed(mut self, pairs: &[(&str, &str)]) -> Self {
        for (from, to) in pairs {
            if let Some(value) = self.values.remove(*from) {
                self.values.insert((*to).to_owned(), value);
            }
        }
        self
    }

    /// Returns the config without a key.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.values.remove(key);
        self
    }

    /// Whether the class has the key.
    pub fn knows(&self, key: &str) -> bool {
        self.class.is_some_and(|class| class.default(key).is_some())
    }

    /// Returns a number from 0 on, if present.
    pub fn number_or_zero(&self, key: &str) -> Result<Option<f64>, ModelError> {
        if self.get(key).and_then(Value::as_f64) == Some(0.0) {
            Ok(Some(0.0))
        } else {
            self.number_or_none(key)
        }
    }

    /// Returns a positive number, if present.
    pub fn number_or_none(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let convert = |value: &Value| {
            let number = value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| self.wrong(key, "a number above 0", value))
        };
        self.get(key).map(convert).transpose()
    }

    /// Returns a positive number that must be there.
    pub fn number(&self, key: &str) -> Result<f64, ModelError> {
        self.number_or_none(key)?
            .ok_or_else(|| self.fault(format!("`{key}` is missing, expected a number above 0")))
    }

    /// Returns true or false, or a default.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let convert = |value: &Value| {
            value
                .as_bool()
                .ok_or_else(|| self.wrong(key, "true or false", value))
        };
        self.get(key).map_or(Ok(default), convert)
    }

    /// Returns text, if present.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        let convert = |value| Value::as_str(value).ok_or_else(|| self.wrong(key, "text", value));
        self.get(key).map(convert).transpose()
    }

    /// Returns a list of positive numbers.
    pub fn numbers(&self, key: &str) -> Result<Vec<f64>, ModelError> {
        let values = self
            .get(key)
            .and_then(Value::as_array)
            .ok_or_else(|| self.fault(format!("`{key}` is missing, expected a list of numbers")))?;
        let convert = |value: &Value| {
            let number = value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| self.wrong(key, "a list of numbers above 0", value))
        };
        values.iter().map(convert).collect()
    }

    /// Refuses a value that is not one of `known`, because it would change the mathematics.
    pub fn only(&self, key: &str, known: &[&str]) -> Result<(), ModelError> {
        match self.text(key)? {
            Some(value) if !known.contains(&value) => {
                Err(self.fault(format!("`{key}` is `{value}`, known are {}", list(known))))
            }
            _ => Ok(()),
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> ModelError {
        self.fault(format!("`{key}` is `{found}`, expected {expected}"))
    }
}

/// Returns the kind of a JSON value in words.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "a whole number",
        _ => "text",
    }
}

/// Joins words as a person lists them.
pub(super) fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
