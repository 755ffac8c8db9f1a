//! A token as the files of a tokenizer define it.

use serde_json::Value;
use tokenizers::AddedToken;

/// A token as a file defines it.
#[allow(clippy::struct_excessive_bools, reason = "the flags of the format")]
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    /// Whether normalized text is searched for it; `None`: unless it is special.
    pub normalized: Option<bool>,
    pub special: bool,
}

impl Token {
    pub fn special(content: &str) -> Self {
        Self {
            special: true,
            ..Self::plain(content)
        }
    }

    pub fn plain(content: &str) -> Self {
        let content = content.to_owned();
        Self {
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: false,
        }
    }

    /// Reads a token: a string is a special token, an object states its properties.
    pub fn read(value: &Value) -> Option<Self> {
        let Some(content) = value["content"].as_str() else {
            return value.as_str().map(Self::special);
        };
        let flag = |key: &str| value[key].as_bool();
        let is = |key: &str| flag(key).unwrap_or(false);
        let (single_word, lstrip, rstrip) = (is("single_word"), is("lstrip"), is("rstrip"));
        Some(Self {
            single_word,
            lstrip,
            rstrip,
            normalized: flag("normalized"),
            special: is("special"),
            ..Self::plain(content)
        })
    }

    pub fn known(token: &AddedToken) -> Self {
        let AddedToken {
            single_word,
            lstrip,
            rstrip,
            normalized,
            special,
            ref content,
        } = *token;
        Self {
            content: content.clone(),
            single_word,
            lstrip,
            rstrip,
            normalized: Some(normalized),
            special,
        }
    }

    pub fn into_added(self) -> AddedToken {
        let Self {
            content,
            single_word,
            lstrip,
            rstrip,
            special,
            normalized,
        } = self;
        AddedToken {
            content,
            single_word,
            lstrip,
            rstrip,
            special,
            normalized: normalized.unwrap_or(!special),
        }
    }
}
