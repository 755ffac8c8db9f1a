//! Special tokens: their texts and their roles.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Special tokens, as written in text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<String>,
    /// Ends a sequence.
    pub eos: Option<String>,
    /// Pads a batch.
    pub pad: Option<String>,
    /// Stands for text that the vocabulary lacks.
    pub unk: Option<String>,
    /// Every special token of the tokenizer, including those above and those of chat templates, in
    /// the order of their ids.
    pub all: Vec<String>,
    /// Tokens at which generation stops, including those of `generation_config.json`.
    pub ends: Vec<String>,
}

impl SpecialTokens {
    /// Collects the special tokens of a tokenizer; `named` has those with a key, such as
    /// `bos_token`.
    pub(super) fn of(inner: &tokenizers::Tokenizer, named: &Map<String, Value>) -> Self {
        let token = |key: &str| named.get(key).and_then(Value::as_str).map(str::to_owned);
        let (bos, eos, pad, unk) = (
            token("bos_token"),
            token("eos_token"),
            token("pad_token"),
            token("unk_token"),
        );
        let mut special: Vec<_> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .collect();
        special.sort_unstable_by_key(|(id, _)| *id);
        let mut all: Vec<String> = special
            .into_iter()
            .map(|(_, token)| token.content)
            .collect();
        for named in [&bos, &eos, &pad, &unk].into_iter().flatten() {
            if !all.contains(named) {
                all.push(named.clone());
            }
        }
        Self {
            bos,
            eos,
            pad,
            unk,
            all,
            ends: Vec::new(),
        }
    }
}

/// The tokens that end a turn in stock templates; they count as ends in every tokenizer that has
/// them.
pub const ENDS_OF_TURNS: [&str; 4] = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"];

/// Role of a special token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRole {
    /// Begins a sequence.
    Bos,
    /// Ends a sequence.
    Eos,
    /// Pads a batch.
    Pad,
    /// Stands for text that the vocabulary lacks.
    Unk,
}

impl TokenRole {
    /// Returns its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Pad => "pad",
            Self::Unk => "unk",
        }
    }

    /// Returns its key in a tokenizer's files.
    pub(super) fn token_key(self) -> String {
        format!("{}_token", self.name())
    }

    /// Returns its key in a model's files, which hold ids.
    pub fn id_key(self) -> String {
        format!("{}_token_id", self.name())
    }
}
