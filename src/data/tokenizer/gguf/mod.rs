//! The tokenizer that the metadata of a GGUF file describe, as the files of a Hugging Face folder.
//!
//! The keys are those of llama.cpp (`llama-vocab.cpp`, `gguf-py/gguf/constants.py`). Byte-level BPE
//! names its pre-tokenizer; a `SentencePiece` vocabulary has scores in place of merges.

mod ends;
pub mod error;
mod pre_tokenizer;
mod scores;
pub mod token_kind;
mod vocabulary;

pub use error::GgufTokenizerError;
pub use pre_tokenizer::{LLAMA3, QWEN2};
pub use token_kind::{TokenKind, filler};

use serde_json::{Map, Value, json};

use pre_tokenizer::PreTokenizer;
use scores::Piece;
use vocabulary::{BLANK, Token, Vocabulary, same_length};

use crate::files::gguf::Gguf;

/// Kinds of tokenizers that are read.
const KNOWN_MODELS: &str = "`gpt2` (byte-level BPE), `llama` (SentencePiece with scores) and \
    `gemma4`";
/// Pre-tokenizers whose names an error gives; others are known as well.
const KNOWN_PRE: &str = "those of llama.cpp for language models since May 2024, such as \
    `llama-bpe`, `qwen2`, `gpt-2`, `smollm`, `tekken`, `deepseek-v3`";

/// Files of a Hugging Face folder, from the metadata of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`: special tokens and chat templates.
    pub config: Value,
    /// `generation_config.json`: the ids that end an answer.
    pub generation: Value,
}

/// How pairs of a text are merged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Model {
    /// Bytes in GPT-2's alphabet, in words.
    Bytes(PreTokenizer),
    /// `SentencePiece`: spaces are `▁`, and merges follow from scores.
    Scores,
    /// `SentencePiece` with merges.
    Merges,
}

impl GgufTokenizer {
    /// Returns the files of the tokenizer.
    ///
    /// # Errors
    /// A key is missing or has another type, or the kind of tokenizer is not known.
    pub fn of(file: &Gguf) -> Result<Self, GgufTokenizerError> {
        let model = Model::of(file)?;
        let is_pieces = !matches!(model, Model::Bytes(_));
        let vocabulary = Vocabulary::read(file, is_pieces)?;
        let special = Special::read(file, model, &vocabulary)?;
        let prefixes = match model {
            Model::Scores => file
                .flag("tokenizer.ggml.add_space_prefix")?
                .unwrap_or(true),
            _ => false,
        };
        let merges = match model {
            Model::Scores => merges_of_scores(file, &vocabulary)?,
            _ => merges_of(file)?,
        };
        let (normalizer, pre_tokenizer, decoder) = match model {
            Model::Bytes(pre) => (pre.normalizer(), pre.json(), byte_level()),
            _ => (blanks(prefixes), Value::Null, of_pieces(prefixes)),
        };
        let ignores_merges = matches!(model, Model::Bytes(pre) if pre.ignores_merges);
        let unknown = special.unknown.filter(|_| is_pieces);
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": vocabulary.added(&phi3_words(file)?),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": special.post_processor(&vocabulary),
            "decoder": decoder,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown.map(|id| vocabulary.text(id)),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": is_pieces,
                "byte_fallback": is_pieces,
                "ignore_merges": ignores_merges,
                "vocab": vocabulary.map(),
                "merges": merges,
            },
        });
        Ok(Self {
            tokenizer,
            config: special.config(&vocabulary, templates(file)?),
            generation: special.generation(&vocabulary),
        })
    }
}

impl Model {
    fn of(file: &Gguf) -> Result<Self, GgufTokenizerError> {
        const MODEL: &str = "tokenizer.ggml.model";
        const PRE: &str = "tokenizer.ggml.pre";
        let unknown = |key, found: &str, known| GgufTokenizerError::Unknown {
            path: file.path().to_owned(),
            key,
            found: found.to_owned(),
            known,
        };
        let model = file.text(MODEL)?;
        let model = model.ok_or_else(|| missing(file, MODEL, KNOWN_MODELS))?;
        match model {
            "llama" => Ok(Self::Scores),
            "gemma4" => Ok(Self::Merges),
            "gpt2" => {
                let name = file.text(PRE)?;
                let name = name.ok_or_else(|| missing(file, PRE, KNOWN_PRE))?;
                if name == "gemma4" {
                    return Ok(Self::Merges);
                }
                PreTokenizer::named(name)
                    .map(Self::Bytes)
                    .ok_or_else(|| unknown(PRE, name, KNOWN_PRE))
            }
            other => Err(unknown(MODEL, other, KNOWN_MODELS)),
        }
    }
}

/// Special tokens by their roles, and which of them stand around a text.
struct Special {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    /// Ends of a turn and of a message.
    ends: Vec<u32>,
    adds_bos: bool,
    adds_eos: bool,
}

impl Special {
    fn read(
        file: &Gguf,
        model: Model,
        vocabulary: &Vocabulary,
    ) -> Result<Self, GgufTokenizerError> {
        let id = |name: &str, default: Option<u32>| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = file.size(&key)? else {
                return Ok(default.filter(|id| vocabulary.has(*id)));
            };
            let known = u32::try_from(id).ok().filter(|id| vocabulary.has(*id));
            known.map(Some).ok_or_else(|| {
                let tokens = vocabulary.len();
                broken(
                    file,
                    format!("`{key}` is {id}, expected the id of one of {tokens} tokens"),
                )
            })
        };
        let flag = |name: &str, default: bool| {
            let flag = file.flag(&format!("tokenizer.ggml.add_{name}_token"))?;
            Ok::<_, GgufTokenizerError>(flag.unwrap_or(default))
        };
        let of_llama = |id: u32| Some(id).filter(|_| model == Model::Scores);
        let adds_bos = match model {
            Model::Bytes(pre) => pre.adds_bos,
            Model::Scores | Model::Merges => true,
        };
        let ends = [id("eot", None)?, id("eom", None)?];
        let special = Self {
            bos: id("bos", of_llama(1))?,
            eos: id("eos", of_llama(2))?,
            unknown: id("unknown", of_llama(0))?,
            padding: id("padding", None)?,
            ends: ends.into_iter().flatten().collect(),
            // llama.cpp puts it before Gemma 4's texts whatever the file says.
            adds_bos: flag("bos", adds_bos)? || model == Model::Merges,
            adds_eos: flag("eos", false)?,
        };
        if flag("sep", false)? {
            let reason = "`tokenizer.ggml.add_sep_token` is true, expected false: separators are \
                those of encoders";
            return Err(broken(file, reason));
        }
        for (adds, id, name) in [
            (special.adds_bos, special.bos, "bos"),
            (special.adds_eos, special.eos, "eos"),
        ] {
            if adds && id.is_none() {
                let key = format!("tokenizer.ggml.{name}_token_id");
                let expected = format!("an id, because `tokenizer.ggml.add_{name}_token` is true");
                return Err(missing(file, &key, &expected));
            }
        }
        Ok(special)
    }

    /// Returns the `post_processor` of a `tokenizer.json`: the tokens around a text.
    fn post_processor(&self, vocabulary: &Vocabulary) -> Value {
        let first = self.bos.filter(|_| self.adds_bos);
        let last = self.eos.filter(|_| self.adds_eos);
        let special =
            |id: &u32| json!({"SpecialToken": {"id": vocabulary.text(*id), "type_id": 0}});
        let around = |name: &str, kind: u8| {
            let text = json!({"Sequence": {"id": name, "type_id": kind}});
            let around = first.iter().map(special).chain([text]);
            around.chain(last.iter().map(special)).collect::<Vec<_>>()
        };
        let entry = |id: &u32| {
            let text = vocabulary.text(*id);
            let entry = json!({"id": text, "ids": [id], "tokens": [text]});
            (text.to_owned(), entry)
        };
        let tokens: Map<String, Value> = first.iter().chain(&last).map(entry).collect();
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        })
    }

    fn config(&self, vocabulary: &Vocabulary, templates: Value) -> Value {
        let text = |id: Option<u32>| id.map(|id| vocabulary.text(id));
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": text(self.bos),
            "eos_token": text(self.eos),
            "unk_token": text(self.unknown),
            "pad_token": text(self.padding),
            "add_bos_token": self.adds_bos,
            "add_eos_token": self.adds_eos,
            "clean_up_tokenization_spaces": false,
            "chat_template": templates,
        });
        if let Some(values) = config.as_object_mut() {
            values.retain(|_, value| !value.is_null());
        }
        config
    }

    fn generation(&self, vocabulary: &Vocabulary) -> Value {
        let mut ends: Vec<u32> = Vec::new();
        for id in self
            .eos
            .iter()
            .chain(&self.ends)
            .chain(&ends::of(&vocabulary.ids()))
        {
            if !ends.contains(id) {
                ends.push(*id);
            }
        }
        let mut generation = json!({
            "bos_token_id": self.bos,
            "eos_token_id": ends,
            "pad_token_id": self.padding,
        });
        if let Some(values) = generation.as_object_mut() {
            values.retain(|_, value| !value.is_null());
        }
        generation
    }
}

/// Returns the merges of a file that has them.
fn merges_of(file: &Gguf) -> Result<Value, GgufTokenizerError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let merges = file.texts(KEY)?;
    let merges = merges.ok_or_else(|| missing(file, KEY, "a list of merges"))?;
    // A piece may begin with a space.
    let pair = |merge: &str| {
        let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
        Some(json!([&merge[..cut], &merge[cut + 1..]]))
    };
    let pairs = merges.iter().map(|merge| {
        pair(merge).ok_or_else(|| {
            broken(
                file,
                format!("`{KEY}` has `{merge}`, expected two pieces with a space between"),
            )
        })
    });
    pairs.collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// Returns the merges that follow from scores.
fn merges_of_scores(file: &Gguf, vocabulary: &Vocabulary) -> Result<Value, GgufTokenizerError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = file.numbers(KEY)?;
    let scores = scores.ok_or_else(|| missing(file, KEY, "a score of every token"))?;
    same_length(file, KEY, scores.len(), vocabulary.len())?;
    let piece = |token: &Token, score: f64| match token.kind {
        TokenKind::Normal => Some(score as f32),
        // `SentencePiece` looks for them before it merges.
        TokenKind::UserDefined => Some(f32::INFINITY),
        _ => None,
    };
    let pieces: Vec<Piece> = vocabulary
        .tokens
        .iter()
        .zip(scores)
        .filter_map(|(token, score)| {
            let (text, score) = (token.text.as_str(), piece(token, score)?);
            Some(Piece { text, score })
        })
        .collect();
    let merges =
        scores::merges(&pieces, &vocabulary.ids()).map_err(|reason| broken(file, reason))?;
    Ok(json!(merges))
}

/// Returns a normalizer that turns spaces into `▁`, with one before the text.
fn blanks(prefixes: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK});
    if !prefixes {
        return replace;
    }
    let prepend = json!({"type": "Prepend", "prepend": BLANK});
    json!({"type": "Sequence", "normalizers": [prepend, replace]})
}

/// Returns the decoder of pieces.
fn of_pieces(prefixes: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixes {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// Returns the decoder of GPT-2's alphabet of bytes.
fn byte_level() -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": true,
        "trim_offsets": true,
        "use_regex": true,
    })
}

/// Returns the chat templates: one, or a list of named ones.
fn templates(file: &Gguf) -> Result<Value, GgufTokenizerError> {
    const KEY: &str = "tokenizer.chat_template";
    let default = file.text(KEY)?;
    let mut named = Vec::new();
    for name in file.texts("tokenizer.chat_templates")?.unwrap_or_default() {
        if let Some(template) = file.text(&format!("{KEY}.{name}"))? {
            named.push(json!({"name": name, "template": template}));
        }
    }
    if named.is_empty() {
        return Ok(default.map_or(Value::Null, Value::from));
    }
    named.extend(default.map(|template| json!({"name": "default", "template": template})));
    Ok(Value::Array(named))
}

/// Returns whether special tokens take the spaces after them, as those of Phi-3 do: llama.cpp tells
/// it by the model's name.
fn phi3_words(file: &Gguf) -> Result<impl Fn(&str) -> bool, GgufTokenizerError> {
    let name = file.text("general.name")?.unwrap_or_default();
    let name = name.to_lowercase();
    let is_phi3 = name.contains("phi-3") || name.contains("phi3");
    Ok(move |token: &str| is_phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&token))
}

/// Makes the error for values that contradict each other.
fn broken(file: &Gguf, reason: impl Into<String>) -> GgufTokenizerError {
    GgufTokenizerError::Broken {
        path: file.path().to_owned(),
        reason: reason.into(),
    }
}

/// Makes the error for a missing key.
fn missing(file: &Gguf, key: &str, expected: &str) -> GgufTokenizerError {
    broken(file, format!("`{key}` is missing, expected {expected}"))
}
