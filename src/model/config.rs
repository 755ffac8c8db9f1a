//! config.json, read key by key with errors that name the file, the key and both sides.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Error;
use crate::files::{JSON_BYTES, read_text_up_to};

/// No size of a model is larger, and products of two of them stay far within 64 bits.
const LARGEST: usize = 1 << 24;

/// An open config.json.
#[derive(Debug)]
pub(super) struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` of a base's folder.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("config.json");
        if !path.exists() {
            let message = "there is no such file".to_owned();
            let hint = Some("name the folder of a Hugging Face model: config.json, *.safetensors, tokenizer.json".to_owned());
            return Err(Error::Config { path, message, hint });
        }
        Self::read(&path)
    }

    /// Reads a file of that kind, whatever its name.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let fault = |message| Err(Error::Config { path: path.to_owned(), message, hint: None });
        match serde_json::from_str(&read_text_up_to(path, JSON_BYTES)?) {
            Ok(Value::Object(values)) => Ok(Self { path: path.to_owned(), values }),
            Ok(_) => fault("expected a JSON object".to_owned()),
            Err(error) => fault(format!("not valid JSON: {error}")),
        }
    }

    /// An error about this file.
    pub fn fault(&self, message: impl Into<String>) -> Error {
        Error::Config { path: self.path.clone(), message: message.into(), hint: None }
    }

    /// An object inside the file as a config of its own; `None` where it is absent or null.
    pub fn section(&self, key: &str) -> Result<Option<Self>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self { path: self.path.clone(), values: values.clone() })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Keys that are there.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.values.keys()
    }

    /// Whether the key is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A whole number that must be there.
    pub fn size(&self, key: &str) -> Result<usize, Error> {
        self.size_or_none(key)?.ok_or_else(|| self.fault(format!("`{key}` is missing, expected a whole number from 1")))
    }

    /// A whole number, if there.
    pub fn size_or_none(&self, key: &str) -> Result<Option<usize>, Error> {
        let convert = |value: &Value| {
            let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| (1..=LARGEST).contains(size));
            size.ok_or_else(|| self.wrong(key, &format!("a whole number from 1 to {LARGEST}"), value))
        };
        self.get(key).map(convert).transpose()
    }

    /// A whole number, with a default.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize, Error> {
        Ok(self.size_or_none(key)?.unwrap_or(default))
    }

    /// A whole number from 0 on, with a default.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, Error> {
        if self.get(key).and_then(Value::as_u64) == Some(0) { Ok(0) } else { self.size_or(key, default) }
    }

    /// The number of a token, if there; below 0 it counts from the end of the vocabulary.
    pub fn token(&self, key: &str) -> Result<Option<isize>, Error> {
        let convert = |value: &Value| {
            let id = value.as_i64().and_then(|id| isize::try_from(id).ok()).filter(|id| id.unsigned_abs() <= LARGEST);
            id.ok_or_else(|| self.wrong(key, "the number of a token", value))
        };
        self.get(key).map(convert).transpose()
    }

    /// A list of layers, empty where there is none.
    pub fn layers(&self, key: &str) -> Result<Vec<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let layer = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let layers = value.as_array().and_then(|layers| layers.iter().map(layer).collect());
        layers.ok_or_else(|| self.wrong(key, "a list of layers", value))
    }

    /// The same config with a key of another where this one has none.
    #[must_use]
    pub fn with_absent(mut self, other: &Self, key: &str) -> Self {
        if !self.has(key)
            && let Some(value) = other.get(key)
        {
            self.values.insert(key.to_owned(), value.clone());
        }
        self
    }

    /// A number from 0 on, if there.
    pub fn number_or_zero(&self, key: &str) -> Result<Option<f64>, Error> {
        if self.get(key).and_then(Value::as_f64) == Some(0.0) { Ok(Some(0.0)) } else { self.number_or_none(key) }
    }

    /// A positive number, if there.
    pub fn number_or_none(&self, key: &str) -> Result<Option<f64>, Error> {
        let convert = |value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| self.wrong(key, "a number above 0", value))
        };
        self.get(key).map(convert).transpose()
    }

    /// A positive number that must be there.
    pub fn number(&self, key: &str) -> Result<f64, Error> {
        self.number_or_none(key)?.ok_or_else(|| self.fault(format!("`{key}` is missing, expected a number above 0")))
    }

    /// True or false, with a default.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        let convert = |value: &Value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value));
        self.get(key).map_or(Ok(default), convert)
    }

    /// Text, if there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        let convert = |value| Value::as_str(value).ok_or_else(|| self.wrong(key, "text", value));
        self.get(key).map(convert).transpose()
    }

    /// Positive numbers.
    pub fn numbers(&self, key: &str) -> Result<Vec<f64>, Error> {
        let values = self
            .get(key)
            .and_then(Value::as_array)
            .ok_or_else(|| self.fault(format!("`{key}` is missing, expected a list of numbers")))?;
        let convert = |value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| self.wrong(key, "a list of numbers above 0", value))
        };
        values.iter().map(convert).collect()
    }

    /// Refuses a value that would change the mathematics and is not one of `known`.
    pub fn only(&self, key: &str, known: &[&str]) -> Result<(), Error> {
        match self.text(key)? {
            Some(value) if !known.contains(&value) => Err(self.fault(format!("`{key}` is `{value}`, known are {}", list(known)))),
            _ => Ok(()),
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        self.fault(format!("`{key}` is `{found}`, expected {expected}"))
    }
}

/// Words as a person lists them.
pub(super) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
