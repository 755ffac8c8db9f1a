//! The base's tokenizer: text to token ids and back, with the special tokens and the chat template that come with it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::moved::{self, MovedToken};
use super::template::TEMPLATE_BYTES;
use super::vet::vet;
use crate::fault::{Exit, Explain};
use crate::files;

/// The most that is read of `tokenizer.json`; the largest in use has 33 MB.
const TOKENIZER_BYTES: u64 = 64 << 20;

/// The tokens with a meaning of their own, as they are written in text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<String>,
    /// Ends a sequence.
    pub eos: Option<String>,
    /// Fills a batch.
    pub pad: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
    /// Every special token of the tokenizer, these and those of chat templates, in the order of their ids.
    pub all: Vec<String>,
}

/// A tokenised text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token the bytes of the text that it stands for; `(0, 0)` for one that was added. Tokens that share a character
    /// each have all its bytes.
    pub offsets: Vec<(usize, usize)>,
}

/// A Hugging Face tokenizer, used from many threads.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    eos_ids: Vec<u32>,
    chat_template: Option<String>,
    moved: Vec<MovedToken>,
    hash: files::Hash,
}

/// A tokenizer that cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is there and cannot be read.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The folder has no `tokenizer.json`.
    #[error("`{folder}` holds no `tokenizer.json`{instead}")]
    Missing {
        /// The folder of the base model.
        folder: PathBuf,
        /// A tokenizer in another form that is there, as the end of the sentence.
        instead: &'static str,
    },
    /// A file is not what its name says.
    #[error("`{path}` is not {expected}: {cause}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What does not parse.
        cause: String,
    },
    /// A value of a configuration file has another type.
    #[error("`{key}` in `{path}` is {found}, expected {expected}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value as it stands there.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A text has no tokens.
    #[error("a text of {bytes} bytes cannot be tokenised: {cause}")]
    Encode {
        /// Size of the text.
        bytes: usize,
        /// What the tokenizer said.
        cause: String,
    },
    /// The tokenizer's crate panicked over a text.
    #[error("a text of {bytes} bytes cannot be tokenised: {cause}")]
    Panicked {
        /// Size of the text.
        bytes: usize,
        /// What the crate said.
        cause: String,
    },
    /// Tokens have no text.
    #[error("{tokens} tokens cannot be turned into text: {cause}")]
    Decode {
        /// Number of tokens.
        tokens: usize,
        /// What the tokenizer said.
        cause: String,
    },
}

impl Tokenizer {
    /// Opens the tokenizer of a model folder: `tokenizer.json`, and where they are there `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja` and `generation_config.json`.
    ///
    /// # Errors
    /// The tokenizer is missing, or one of the files cannot be read or is broken.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let source = read_optional(&path, TOKENIZER_BYTES)?.ok_or_else(|| missing(folder))?;
        let inner = parse(&path, &source)?;
        let config = Config::read(folder.join("tokenizer_config.json"))?;
        let special = special_tokens(&inner, &config, &Config::read(folder.join("special_tokens_map.json"))?)?;
        let chat_template = match read_optional(&folder.join("chat_template.jinja"), TEMPLATE_BYTES)? {
            Some(template) => Some(template),
            None => config.chat_template()?,
        };
        let mut eos_ids: Vec<u32> = special.eos.iter().filter_map(|token| inner.token_to_id(token)).collect();
        eos_ids.extend(Config::read(folder.join("generation_config.json"))?.eos_ids()?);
        let mut seen = std::collections::HashSet::new();
        eos_ids.retain(|id| seen.insert(*id));
        let hash = hash(&source, &special, &eos_ids);
        let moved = moved::find(&source, &inner);
        Ok(Self { inner, special, eos_ids, chat_template, moved, hash })
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The chat template: `chat_template.jinja`, else the one in `tokenizer_config.json`, among several the one named `default`.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Tokenises a text; `add_special_tokens` adds what the tokenizer puts around a sequence, such as BOS.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, Error> {
        // A regular expression that backtracks too often makes its crate panic.
        let encoding = files::guarded(|| self.inner.encode(text, add_special_tokens));
        let encoding = encoding.map_err(|cause| Error::Panicked { bytes: text.len(), cause })?;
        let encoding = encoding.map_err(|error| Error::Encode { bytes: text.len(), cause: error.to_string() })?;
        Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// The ids that [`Tokenizer::encode`] has, without the places in the text, in less time.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the text.
    pub fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        let encoding = files::guarded(|| self.inner.encode_fast(text, add_special_tokens));
        let encoding = encoding.map_err(|cause| Error::Panicked { bytes: text.len(), cause })?;
        let encoding = encoding.map_err(|error| Error::Encode { bytes: text.len(), cause: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokenises a rendered conversation: the ids, and for each token whether it lies in one of `spans` (bytes of `text`). Nothing
    /// is added, for a chat template writes its own BOS.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the text.
    pub fn encode_with_spans(&self, text: &str, spans: &[Range<usize>]) -> Result<(Vec<u32>, Vec<bool>), Error> {
        let Encoding { ids, offsets } = self.encode(text, false)?;
        let mut trained = vec![false; ids.len()];
        for span in spans {
            trained[tokens_of(span, &offsets)].fill(true);
        }
        Ok((ids, trained))
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        let failed = |cause: String| Error::Decode { tokens: ids.len(), cause };
        let text = files::guarded(|| self.inner.decode(ids, skip_special_tokens)).map_err(failed)?;
        text.map_err(|error| failed(error.to_string()))
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that begins a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_to_id(self.special.bos.as_deref()?)
    }

    /// The token that ends a sequence: the tokenizer's, else the first of the generation config.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_ids.first().copied()
    }

    /// Every token at which generation stops: the tokenizer's and those of the generation config.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Every token that ends a document or a turn: the eos tokens, and the stock templates' ends of a turn where they are known.
    pub fn end_ids(&self) -> Vec<u32> {
        let of_turns =
            ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"].into_iter().filter_map(|token| self.token_to_id(token));
        self.eos_ids.iter().copied().chain(of_turns).collect()
    }

    /// Whether a token was added to the vocabulary, special or not.
    pub fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// Whether a token was added to the vocabulary as a special one.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Added tokens whose ids are not those of the file.
    pub fn moved_tokens(&self) -> &[MovedToken] {
        &self.moved
    }

    /// The identity of the tokenizer: its file and its special tokens. The chat template is not part of it.
    pub fn hash(&self) -> files::Hash {
        self.hash
    }
}

/// The tokens of a span, by the rule of transformers: from the token of its first character to the token of its last. A character
/// that no token holds (a space that the tokenizer drops) counts for the next one, at the end for the one before.
fn tokens_of(span: &Range<usize>, offsets: &[(usize, usize)]) -> Range<usize> {
    let holds = |byte: usize| offsets.iter().position(|(start, end)| (*start..*end).contains(&byte));
    let first = holds(span.start).or_else(|| offsets.iter().position(|(start, end)| *start >= span.start && start < end));
    let last =
        holds(span.end.saturating_sub(1)).or_else(|| offsets.iter().rposition(|(start, end)| *end <= span.end && start < end));
    match (first, last) {
        (Some(first), Some(last)) if first <= last => first..last + 1,
        _ => 0..0,
    }
}

fn parse(path: &Path, source: &str) -> Result<tokenizers::Tokenizer, Error> {
    let broken =
        |error: tokenizers::Error| Error::Broken { path: path.to_owned(), expected: "a tokenizer", cause: error.to_string() };
    vet(source).map_err(|reason| broken(reason.into()))?;
    let parsed = files::guarded(|| {
        let mut parsed = tokenizers::Tokenizer::from_bytes(source)?;
        // Rows are cut and padded where that is counted.
        parsed.with_truncation(None)?.with_padding(None);
        // A post-processor that names a special token which it does not describe fails at its first text only.
        parsed.encode("", true)?;
        Ok(parsed)
    });
    parsed.map_err(Into::into).flatten().map_err(broken)
}

fn special_tokens(inner: &tokenizers::Tokenizer, config: &Config, map: &Config) -> Result<SpecialTokens, Error> {
    let token = |key| Ok::<_, Error>(config.token(key)?.or(map.token(key)?));
    let (bos, eos, pad, unk) = (token("bos_token")?, token("eos_token")?, token("pad_token")?, token("unk_token")?);
    let mut added: Vec<_> = inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).collect();
    added.sort_unstable_by_key(|(id, _)| *id);
    let mut all: Vec<String> = added.into_iter().map(|(_, token)| token.content).collect();
    for named in [&bos, &eos, &pad, &unk].into_iter().flatten() {
        if !all.contains(named) {
            all.push(named.clone());
        }
    }
    Ok(SpecialTokens { bos, eos, pad, unk, all })
}

fn hash(source: &str, special: &SpecialTokens, eos_ids: &[u32]) -> files::Hash {
    let SpecialTokens { bos, eos, pad, unk, all } = special;
    let tokenizer = files::hash_bytes(source.as_bytes()).to_string();
    files::hash_bytes(json!([tokenizer, bos, eos, pad, unk, all, eos_ids]).to_string().as_bytes())
}

fn missing(folder: &Path) -> Error {
    let has = |name: &str| folder.join(name).exists();
    let instead = match () {
        () if has("tokenizer.model") || has("spiece.model") => ", only a sentencepiece model",
        () if has("vocab.json") && has("merges.txt") => ", only `vocab.json` and `merges.txt`",
        () => "",
    };
    Error::Missing { folder: folder.to_owned(), instead }
}

fn read_optional(path: &Path, limit_bytes: u64) -> Result<Option<String>, Error> {
    match files::read_text_up_to(path, limit_bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.cause.kind() == io::ErrorKind::InvalidData => {
            Err(Error::Broken { path: path.to_owned(), expected: "UTF-8 text", cause: error.cause.to_string() })
        }
        Err(error) => Err(error.into()),
    }
}

/// One of the JSON files beside the tokenizer; empty where it is not there.
struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    fn read(path: PathBuf) -> Result<Self, Error> {
        let source = read_optional(&path, files::JSON_BYTES)?.unwrap_or_else(|| "{}".to_owned());
        match serde_json::from_str(&source) {
            Ok(values) => Ok(Self { path, values }),
            Err(error) => Err(Error::Broken { path, expected: "a JSON object", cause: error.to_string() }),
        }
    }

    /// A token: a string, or an object that holds it as `content`.
    fn token(&self, key: &'static str) -> Result<Option<String>, Error> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_str().or_else(|| value["content"].as_str()) {
                Some(token) => Ok(Some(token.to_owned())),
                None => Err(self.wrong(key, value, "a token")),
            },
        }
    }

    /// The template, or the one named `default` of a list of `{name, template}`.
    fn chat_template(&self) -> Result<Option<String>, Error> {
        const KEY: &str = "chat_template";
        let is_default = |template: &&Value| template["name"] == "default";
        match self.values.get(KEY) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(template)) => Ok(Some(template.clone())),
            Some(Value::Array(templates)) => {
                Ok(templates.iter().find(is_default).and_then(|it| it["template"].as_str()).map(str::to_owned))
            }
            Some(other) => Err(self.wrong(KEY, other, "a template or a list of named templates")),
        }
    }

    fn eos_ids(&self) -> Result<Vec<u32>, Error> {
        const KEY: &str = "eos_token_id";
        let value = self.values.get(KEY).unwrap_or(&Value::Null);
        let ids = match value {
            Value::Null => &[],
            Value::Array(ids) => ids.as_slice(),
            id => std::slice::from_ref(id),
        };
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        ids.iter().map(id).collect::<Option<_>>().ok_or_else(|| self.wrong(KEY, value, "a token id or a list of them"))
    }

    fn wrong(&self, key: &'static str, value: &Value, expected: &'static str) -> Error {
        Error::Value { path: self.path.clone(), key, found: format!("`{value}`"), expected }
    }
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Missing { instead: "", .. } => Some("take the base's `tokenizer.json` along with its weights".to_owned()),
            Self::Missing { .. } => Some(
                "convert it once with transformers: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`".to_owned(),
            ),
            Self::Broken { .. } => Some("fetch the file again from where the base comes from".to_owned()),
            Self::Value { .. } => Some("correct the value, or fetch the file again".to_owned()),
            Self::Encode { .. } | Self::Panicked { .. } | Self::Decode { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a tokenizer of four words and the given files.
    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let tokenizer = json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": null, "added_tokens": [special(0, "<s>"), special(1, "</s>")], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "ü": 3}, "unk_token": "a"},
        });
        for (name, content) in files.iter().chain(&[("tokenizer.json", tokenizer)]) {
            let content = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn message(folder: &tempfile::TempDir) -> String {
        let place = format!("{}/", folder.path().display());
        Tokenizer::open(folder.path()).unwrap_err().to_string().replace(&place, "")
    }

    #[test]
    fn special_tokens_are_strings_or_objects_and_fall_back_to_the_map() {
        let folder = folder(&[
            ("tokenizer_config.json", json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": null})),
            ("special_tokens_map.json", json!({"eos_token": "a", "pad_token": "<pad>"})),
            ("generation_config.json", json!({"eos_token_id": [3, 1]})),
        ]);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let all = ["<s>", "</s>", "<pad>"].map(str::to_owned).to_vec();
        let (bos, eos, pad) = (all.first().cloned(), all.get(1).cloned(), all.get(2).cloned());
        assert_eq!(*tokenizer.special(), SpecialTokens { bos, eos, pad, unk: None, all });
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.token_to_id("<pad>")), (Some(0), Some(1), None));
        assert_eq!(tokenizer.eos_ids(), [1, 3]);
        assert_eq!(tokenizer.vocab_size(), 4);
    }

    #[test]
    fn the_template_file_wins_over_the_config_and_a_list_gives_its_default() {
        let list = json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
        let template = |files: &[_]| Tokenizer::open(folder(files).path()).unwrap().chat_template().map(str::to_owned);
        assert_eq!(template(&[("tokenizer_config.json", list.clone())]).as_deref(), Some("d"));
        assert_eq!(template(&[("tokenizer_config.json", list), ("chat_template.jinja", "f".into())]).as_deref(), Some("f"));
        assert_eq!(template(&[]), None);
    }

    #[test]
    fn rows_are_not_cut_by_the_tokenizer() {
        let tokenizer = Tokenizer::open(folder(&[]).path()).unwrap();
        assert_eq!(tokenizer.encode("a a a a", true).unwrap().ids.len(), 4);
    }

    #[test]
    fn spans_reach_from_the_token_of_their_first_character_to_that_of_their_last() {
        let tokenizer = Tokenizer::open(folder(&[]).path()).unwrap();
        let text = "<s>ü a  ü a</s>";
        let mask = |span: Range<usize>| {
            let (ids, trained) = tokenizer.encode_with_spans(text, &[span]).unwrap();
            assert_eq!(ids, [0, 3, 2, 3, 2, 1]);
            trained.into_iter().map(u8::from).collect::<Vec<_>>()
        };
        assert_eq!(mask(3..7), [0, 1, 1, 0, 0, 0]);
        assert_eq!(mask(11..17), [0, 0, 0, 0, 1, 1]);
        assert_eq!(mask(7..12), [0, 0, 0, 1, 0, 0]);
        assert_eq!(mask(7..9), [0; 6]);
    }

    #[test]
    fn what_is_not_a_tokenizer_is_refused_in_words() {
        let empty = tempfile::tempdir().unwrap();
        let error = Tokenizer::open(empty.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("`{}` holds no `tokenizer.json`", empty.path().display()));
        std::fs::write(empty.path().join("tokenizer.model"), "").unwrap();
        let error = Tokenizer::open(empty.path()).unwrap_err();
        assert!(error.to_string().ends_with("`tokenizer.json`, only a sentencepiece model"), "{error}");
        assert!(error.hint().unwrap().starts_with("convert it once"));
        let broken = folder(&[("tokenizer_config.json", "{".into())]);
        assert!(message(&broken).starts_with("`tokenizer_config.json` is not a JSON object: "));
        let wrong = folder(&[("tokenizer_config.json", json!({"bos_token": 7}))]);
        assert_eq!(message(&wrong), "`bos_token` in `tokenizer_config.json` is `7`, expected a token");
        let wrong = folder(&[("generation_config.json", json!({"eos_token_id": "x"}))]);
        assert!(message(&wrong).ends_with("is `\"x\"`, expected a token id or a list of them"));
    }

    #[test]
    fn the_hash_follows_the_special_tokens() {
        let hash = |files: &[_]| Tokenizer::open(folder(files).path()).unwrap().hash();
        assert_eq!(hash(&[]), hash(&[("chat_template.jinja", "f".into())]));
        assert_ne!(hash(&[]), hash(&[("tokenizer_config.json", json!({"eos_token": "</s>"}))]));
    }
}
