//! The text files that a tokenizer is opened from: those of a model's folder, or those beside an
//! adapter with a tokenizer of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::TokenizeError;
use super::templates::{FILE, FOLDER, TEMPLATE_BYTES, Templates};
use crate::files::{self, is_there};

/// Maximum bytes read of `tokenizer.json`; the largest in use has 33 MB.
const TOKENIZER_BYTES: u64 = 64 << 20;

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const CONFIG: &str = "tokenizer_config.json";
pub(super) const MAP: &str = "special_tokens_map.json";
pub(super) const ADDED: &str = "added_tokens.json";
pub(super) const GENERATION: &str = "generation_config.json";

/// The JSON files; all except the last together define the tokens.
pub const NAMES: [&str; 5] = [TOKENIZER, CONFIG, MAP, ADDED, GENERATION];

/// The text files of a tokenizer.
#[derive(Debug, Clone)]
pub struct TokenizerFiles {
    pub(super) folder: PathBuf,
    /// Texts of the existing files among [`NAMES`].
    pub(super) texts: BTreeMap<&'static str, String>,
    /// Templates in files of their own.
    pub(super) templates: Templates,
}

impl TokenizerFiles {
    /// Reads the files of a folder.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub fn read(folder: &Path) -> Result<Self, TokenizeError> {
        let mut texts = BTreeMap::new();
        for name in NAMES {
            let limit_bytes = if name == TOKENIZER {
                TOKENIZER_BYTES
            } else {
                files::JSON_BYTES
            };
            texts.extend(read_optional(&folder.join(name), limit_bytes)?.map(|text| (name, text)));
        }
        Ok(Self {
            templates: template_files(folder)?,
            folder: folder.to_owned(),
            texts,
        })
    }

    /// Reads the files beside an adapter. Files that it lacks come from its base: the generation
    /// config, and the templates if it has none. `None` if the adapter has no tokenizer, or a copy
    /// of its base's.
    ///
    /// # Errors
    /// A file exists and cannot be read, or is not a JSON object.
    pub fn beside(adapter: &Path, base: &Path) -> Result<Option<Self>, TokenizeError> {
        if !is_there(&adapter.join(TOKENIZER))? {
            return Ok(None);
        }
        let (mut own, of_base) = (Self::read(adapter)?, Self::read(base)?);
        if own.is_copy_of(&of_base) {
            return Ok(None);
        }
        if own.all_templates()? == Templates::default() {
            own.templates = of_base.all_templates()?;
        }
        if let Some(text) = of_base.texts.get(GENERATION) {
            own.texts.entry(GENERATION).or_insert_with(|| text.clone());
        }
        Ok(Some(own))
    }

    /// Whether all that defines tokens is the same in the other folder, and what else is here too.
    fn is_copy_of(&self, other: &Self) -> bool {
        let same = |name: &'static str| self.texts.get(name) == other.texts.get(name);
        NAMES
            .into_iter()
            .all(|name| same(name) || (name == GENERATION && !self.texts.contains_key(name)))
            && (self.templates == other.templates || self.templates == Templates::default())
    }

    /// Returns one of the JSON files; empty if it does not exist.
    pub(super) fn json(&self, name: &'static str) -> Result<Config, TokenizeError> {
        Config::of(
            self.folder.join(name),
            self.texts.get(name).map(String::as_str),
        )
    }

    /// Returns the templates in files, otherwise those in `tokenizer_config.json`.
    pub(super) fn all_templates(&self) -> Result<Templates, TokenizeError> {
        if self.templates == Templates::default() {
            self.json(CONFIG)?.chat_templates()
        } else {
            Ok(self.templates.clone())
        }
    }

    /// Returns the name and content of every file. Templates in `tokenizer_config.json` stay there.
    pub fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let texts = self
            .texts
            .iter()
            .map(|(name, text)| (PathBuf::from(name), text.clone().into_bytes()));
        texts
            .chain(
                self.templates
                    .files()
                    .map(|(path, source)| (path, source.into_bytes())),
            )
            .collect()
    }
}

/// Reads the template files of a model's folder.
fn template_files(folder: &Path) -> Result<Templates, TokenizeError> {
    let mut found = Vec::new();
    for path in named_template_files(folder)? {
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        found.extend(read_optional(&path, TEMPLATE_BYTES)?.map(|source| (name, source)));
    }
    let default = read_optional(&folder.join(FILE), TEMPLATE_BYTES)?;
    Ok(found
        .into_iter()
        .chain(default.map(|source| ("default".to_owned(), source)))
        .collect())
}

/// Returns the files of a model's further templates, in the order of their names.
///
/// # Errors
/// Their folder cannot be read.
pub fn named_template_files(folder: &Path) -> Result<Vec<PathBuf>, files::FileError> {
    let folder = folder.join(FOLDER);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |cause| files::FileError::new("read", &folder, cause);
    let entries = std::fs::read_dir(&folder)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.extension().is_some_and(|end| end == "jinja") && path.to_str().is_some()
    });
    paths.sort();
    Ok(paths)
}

fn read_optional(path: &Path, limit_bytes: u64) -> Result<Option<String>, TokenizeError> {
    if !is_there(path)? {
        return Ok(None);
    }
    match files::read_text_up_to(path, limit_bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.cause.kind() == io::ErrorKind::InvalidData => {
            Err(TokenizeError::Broken {
                path: path.to_owned(),
                expected: "UTF-8 text",
                cause: error.cause.to_string(),
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// One of the JSON files beside the tokenizer; empty if it does not exist.
pub(super) struct Config {
    pub path: PathBuf,
    pub values: Map<String, Value>,
}

impl Config {
    fn of(path: PathBuf, source: Option<&str>) -> Result<Self, TokenizeError> {
        match serde_json::from_str(source.unwrap_or("{}")) {
            Ok(values) => Ok(Self { path, values }),
            Err(error) => Err(TokenizeError::Broken {
                path,
                expected: "a JSON object",
                cause: error.to_string(),
            }),
        }
    }

    /// Returns the chat templates, written as one template, a list of `{name, template}` or an
    /// object of templates.
    pub fn chat_templates(&self) -> Result<Templates, TokenizeError> {
        const KEY: &str = "chat_template";
        let value = self.values.get(KEY).unwrap_or(&Value::Null);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let named = match value {
            Value::Null => return Ok(Templates::default()),
            Value::String(template) => return Ok(Templates::one(template.clone())),
            Value::Array(all) => all
                .iter()
                .map(|it| Some((text(&it["name"])?, text(&it["template"])?)))
                .collect(),
            Value::Object(all) => all
                .iter()
                .map(|(name, template)| Some((name.clone(), text(template)?)))
                .collect(),
            _ => None,
        };
        named.ok_or_else(|| self.wrong(KEY, value, "a template or a list of named templates"))
    }

    pub fn eos_ids(&self) -> Result<Vec<u32>, TokenizeError> {
        const KEY: &str = "eos_token_id";
        let value = self.values.get(KEY).unwrap_or(&Value::Null);
        let ids = match value {
            Value::Null => &[],
            Value::Array(ids) => ids.as_slice(),
            id => std::slice::from_ref(id),
        };
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        ids.iter()
            .map(id)
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(KEY, value, "a token id or a list of them"))
    }

    pub fn wrong(&self, key: &str, value: &Value, expected: &'static str) -> TokenizeError {
        TokenizeError::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            found: format!("`{value}`"),
            expected,
        }
    }
}
