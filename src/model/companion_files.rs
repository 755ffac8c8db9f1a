//! Files that accompany a model's weights: config, tokenizer, templates and licenses, byte for
//! byte. Only files with known names count: a base's card, code and weights in other formats do not
//! belong to the merged model.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::files::license::is_notice;
use crate::files::{
    self, FileError, Float, JSON_BYTES, is_there, open_file, read_text_up_to, read_up_to,
    write_all, write_atomic,
};

/// Keys of config.json for the type of the weights, in transformers 5 and in 4.
const DTYPE: [&str; 2] = ["dtype", "torch_dtype"];
const CONFIG: &str = "config.json";
/// The file of the chat template; it takes precedence over the one in `tokenizer_config.json`.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
const INDEX: &str = "model.safetensors.index.json";
/// The largest accepted size of a file beside the weights: the largest tokenizers have half of it.
const FILE_BYTES: u64 = 64 << 20;
/// Folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";
const NAMES: [&str; 13] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "chat_template.json",
    CHAT_TEMPLATE,
];

/// Key of config.json for the quantization of weights. It is removed from weights that this program
/// writes as plain numbers, whatever an earlier tool left there.
const QUANTIZATION: &str = "quantization_config";
/// Key of config.json that tells whether head and embedding are tied.
const TIED: &str = "tie_word_embeddings";

/// A head that was tied to the embedding and now is a table of its own.
#[derive(Debug)]
pub struct OwnHead {
    /// The tensor's name, its file and its count of numbers, where it was not stored before.
    pub added: Option<(String, String, u64)>,
}

impl OwnHead {
    fn list(&self, index: &mut Map<String, Value>) {
        let Some((tensor, file, numbers)) = &self.added else {
            return;
        };
        if let Some(Value::Object(map)) = index.get_mut("weight_map") {
            map.insert(tensor.clone(), json!(file));
        }
        if let Some(parameters) = index
            .get_mut("metadata")
            .and_then(|metadata| metadata.get_mut("total_parameters"))
        {
            *parameters = json!(parameters.as_u64().unwrap_or(0) + numbers);
        }
    }
}

/// Key of config.json for the number of rows of embedding and head.
const VOCABULARY: &str = "vocab_size";

/// Changes to a model's folder where its vocabulary differs from that of its base.
#[derive(Debug, Clone, Default)]
pub struct OwnVocabulary {
    /// Number of rows of embedding and head.
    pub rows: usize,
    /// Ids of special tokens, by the keys of config.json.
    pub ids: Vec<(String, Value)>,
    /// Files of the tokenizer, relative to the folder.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl OwnVocabulary {
    /// Changes config.json. A multimodal model has the vocabulary in its text part, and may name it
    /// twice.
    fn tell(&self, config: &mut Map<String, Value>) {
        let has_text = config.get("text_config").is_some_and(Value::is_object);
        let put = |config: &mut Map<String, Value>, is_home: bool| {
            let rows = (VOCABULARY.to_owned(), json!(self.rows));
            for (key, value) in self.ids.iter().chain([&rows]) {
                if is_home || config.contains_key(key) {
                    config.insert(key.clone(), value.clone());
                }
            }
        };
        put(config, !has_text);
        if let Some(Value::Object(text)) = config.get_mut("text_config") {
            put(text, true);
        }
    }

    fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|(name, _)| name == path)
    }
}

/// Files in a model's folder, by their relative paths.
#[derive(Debug)]
pub struct CompanionFiles<'a> {
    base: &'a Path,
    paths: Vec<PathBuf>,
}

impl<'a> CompanionFiles<'a> {
    /// Looks through the folder.
    ///
    /// # Errors
    /// The folder or one of the files cannot be read: a model without its tokenizer or template
    /// would pass for a complete one.
    pub fn of(base: &'a Path) -> Result<Self, FileError> {
        // Beside a single file of weights an index is not read, and would lead to files that are
        // not written.
        let has_index = !is_there(&base.join("model.safetensors"))?;
        let goes =
            |name: &str| NAMES.contains(&name) || is_notice(name) || (has_index && name == INDEX);
        let mut paths = list(base, "", goes)?;
        if is_there(&base.join(TEMPLATES))? && base.join(TEMPLATES).is_dir() {
            paths.extend(list(&base.join(TEMPLATES), TEMPLATES, |name| {
                Path::new(name)
                    .extension()
                    .is_some_and(|end| end == "jinja")
            })?);
        }
        paths.sort();
        Ok(Self { base, paths })
    }

    /// Whether a path is that of a chat template.
    pub fn is_template(path: &Path) -> bool {
        path == Path::new(CHAT_TEMPLATE) || path.starts_with(TEMPLATES)
    }

    /// Returns the relative paths.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.paths.iter().map(|path| self.base.join(path))
    }

    /// Returns the sum of the files' bytes.
    pub fn bytes(&self) -> u64 {
        self.paths
            .iter()
            .filter_map(|path| Some(self.base.join(path).metadata().ok()?.len()))
            .sum()
    }

    /// Copies the files beside weights that are plain numbers. config.json and the index change
    /// only in the entries for leftover quantization, another number type, an untied head, or
    /// another vocabulary, and in what the caller changes; another vocabulary brings its own
    /// tokenizer.
    ///
    /// # Errors
    /// A file cannot be read, or its copy cannot be written.
    pub fn copy(
        &self,
        to: &Path,
        float: Option<Float>,
        tensor_bytes: u64,
        (head, vocabulary): (Option<&OwnHead>, Option<&OwnVocabulary>),
        more_of_index: impl Fn(&mut Map<String, Value>),
        more_of_config: impl Fn(&mut Map<String, Value>),
    ) -> Result<(), FileError> {
        let config = |config: &mut Map<String, Value>| {
            drop_quantization(config);
            if let Some(vocabulary) = vocabulary {
                vocabulary.tell(config);
            }
            if let Some(float) = float {
                set_dtype(config, float);
            }
            if head.is_some() {
                config.insert(TIED.to_owned(), json!(false));
                // A wrapper may be told by the decoder that it holds, too.
                if let Some(Value::Object(text)) = config
                    .get_mut("text_config")
                    .filter(|text| text.get(TIED).is_some())
                {
                    text.insert(TIED.to_owned(), json!(false));
                }
            }
            more_of_config(config);
        };
        let index = |index: &mut Map<String, Value>| {
            if float.is_some() || head.is_some() || vocabulary.is_some() {
                set_size(index, tensor_bytes);
            }
            if let Some(head) = head {
                head.list(index);
            }
            more_of_index(index);
        };
        let files = vocabulary.map_or(&[][..], |vocabulary| &vocabulary.files);
        write_all(to, files)?;
        let is_own = |path: &PathBuf| vocabulary.is_some_and(|vocabulary| vocabulary.has(path));
        let rest = Self {
            base: self.base,
            paths: self
                .paths
                .iter()
                .filter(|path| !is_own(path))
                .cloned()
                .collect(),
        };
        rest.copy_with(to, config, index)
    }

    /// Copies the files, with changes to config.json and to the index.
    ///
    /// # Errors
    /// A file cannot be read, or its copy cannot be written.
    pub fn copy_with(
        &self,
        to: &Path,
        config: impl Fn(&mut Map<String, Value>),
        index: impl Fn(&mut Map<String, Value>),
    ) -> Result<(), FileError> {
        for path in &self.paths {
            let (from, to) = (self.base.join(path), to.join(path));
            match path.to_str() {
                Some(CONFIG) => write_atomic(&to, edited(&from, &config)?.as_bytes())?,
                Some(INDEX) => write_atomic(&to, edited(&from, &index)?.as_bytes())?,
                _ => {
                    let folder = to.parent().expect("a file in a folder");
                    std::fs::create_dir_all(folder)
                        .map_err(|cause| FileError::new("create", folder, cause))?;
                    files::copy(&from, &to)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the files for one file of plain numbers of type `float` and, where it differs, its
    /// vocabulary; returns relative paths and contents.
    ///
    /// # Errors
    /// A file cannot be read, or is larger than any model has.
    pub fn read(
        &self,
        float: Float,
        vocabulary: Option<&OwnVocabulary>,
    ) -> Result<Vec<(PathBuf, Vec<u8>)>, FileError> {
        let content = |path: &PathBuf| {
            let from = self.base.join(path);
            match path.to_str() {
                Some(CONFIG) => {
                    let plain = |config: &mut Map<String, Value>| {
                        drop_quantization(config);
                        set_dtype(config, float);
                        if let Some(vocabulary) = vocabulary {
                            vocabulary.tell(config);
                        }
                    };
                    Ok(edited(&from, plain)?.into_bytes())
                }
                _ => read_up_to(&from, FILE_BYTES),
            }
        };
        let is_own = |path: &PathBuf| vocabulary.is_some_and(|vocabulary| vocabulary.has(path));
        let go = self
            .paths
            .iter()
            .filter(|path| path.to_str() != Some(INDEX) && !is_own(path));
        let own = vocabulary
            .into_iter()
            .flat_map(|vocabulary| vocabulary.files.iter().cloned())
            .map(Ok);
        go.map(|path| Ok((path.clone(), content(path)?)))
            .chain(own)
            .collect()
    }
}

fn list(
    folder: &Path,
    prefix: &str,
    goes: impl Fn(&str) -> bool,
) -> Result<Vec<PathBuf>, FileError> {
    let failed = |cause| FileError::new("read", folder, cause);
    let path = |entry: DirEntry| {
        let name = entry
            .file_name()
            .into_string()
            .ok()
            .filter(|name| goes(name))?;
        // A folder of licenses is no license.
        if is_notice(&name) && entry.path().is_dir() {
            return None;
        }
        Some(open_file(&entry.path()).map(|_| Path::new(prefix).join(name)))
    };
    let entries = std::fs::read_dir(folder)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    entries.into_iter().filter_map(path).collect()
}

/// Returns a JSON file after a change, or byte for byte where nothing changed.
fn edited(from: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<String, FileError> {
    let text = read_text_up_to(from, JSON_BYTES)?;
    let invalid = |error: serde_json::Error| FileError::new("read", from, error.into());
    let old: Map<String, Value> = serde_json::from_str(&text).map_err(invalid)?;
    let mut new = old.clone();
    change(&mut new);
    Ok(if new == old {
        text
    } else {
        serde_json::to_string_pretty(&new).map_err(invalid)? + "\n"
    })
}

/// Removes the quantization entry. A multimodal model may have it in its text part.
fn drop_quantization(config: &mut Map<String, Value>) {
    config.shift_remove(QUANTIZATION);
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        text.shift_remove(QUANTIZATION);
    }
}

fn set_dtype(config: &mut Map<String, Value>, float: Float) {
    for key in DTYPE {
        if let Some(value) = config.get_mut(key) {
            *value = json!(float.torch_name());
        }
    }
}

fn set_size(index: &mut Map<String, Value>, tensor_bytes: u64) {
    if let Some(size) = index
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("total_size"))
    {
        *size = json!(tensor_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_is_told_of_the_part_that_is_text() {
        let vocabulary = OwnVocabulary {
            rows: 9,
            ids: vec![("eos_token_id".to_owned(), json!([1, 8]))],
            files: Vec::new(),
        };
        let told = |config: Value| {
            let mut config = config.as_object().cloned().unwrap_or_default();
            vocabulary.tell(&mut config);
            Value::Object(config)
        };
        assert_eq!(
            told(json!({})),
            json!({"eos_token_id": [1, 8], "vocab_size": 9})
        );
        assert_eq!(
            told(json!({"vocab_size": 7, "a": 1})),
            json!({"vocab_size": 9, "a": 1, "eos_token_id": [1, 8]})
        );
        let text = json!({"text_config": {"vocab_size": 9, "eos_token_id": [1, 8]}});
        assert_eq!(
            told(json!({"text_config": {"vocab_size": 7}})),
            text,
            "nothing is put beside it that was not there"
        );
        let both = json!({"eos_token_id": 1, "vocab_size": 7, "text_config": {"vocab_size": 7}});
        let said = json!({
            "eos_token_id": [1, 8],
            "vocab_size": 9,
            "text_config": {"vocab_size": 9, "eos_token_id": [1, 8]},
        });
        assert_eq!(told(both), said);
    }
}
