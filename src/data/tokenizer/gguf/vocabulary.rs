//! The tokens of a GGUF file, each with its type.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::ends::is_end;
use super::token_kind::filler;
use super::{GgufTokenizerError, TokenKind, broken, missing};
use crate::files::gguf::Gguf;

/// The space of a `SentencePiece` vocabulary.
pub(super) const BLANK: &str = "▁";

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// Its text in a `tokenizer.json`.
    pub text: String,
    pub kind: TokenKind,
}

/// The tokens by their ids.
#[derive(Debug, PartialEq)]
pub(super) struct Vocabulary {
    pub tokens: Vec<Token>,
}

impl Vocabulary {
    /// Reads the tokens and their types. `is_pieces`: they are those of `SentencePiece`.
    pub fn read(file: &Gguf, is_pieces: bool) -> Result<Self, GgufTokenizerError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const KINDS: &str = "tokenizer.ggml.token_type";
        let texts = file.texts(TOKENS)?;
        let texts = texts.ok_or_else(|| missing(file, TOKENS, "a list of tokens"))?;
        let kinds = file.sizes(KINDS)?;
        let kinds = kinds.unwrap_or_else(|| vec![TokenKind::Normal as usize; texts.len()]);
        same_length(file, KINDS, kinds.len(), texts.len())?;
        let token = |(id, (text, kind)): (usize, (&&str, &usize))| {
            let kind = TokenKind::of(*kind).ok_or_else(|| {
                broken(
                    file,
                    format!("`{KINDS}` is {kind} for token {id}, expected 1 to 6"),
                )
            })?;
            Ok::<_, GgufTokenizerError>(Token::of(id, text, kind, is_pieces))
        };
        let tokens: Vec<Token> = texts
            .iter()
            .zip(&kinds)
            .enumerate()
            .map(token)
            .collect::<Result<_, _>>()?;
        let mut ids = HashMap::new();
        for (second, token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token.text.as_str(), second) {
                let text = &token.text;
                return Err(broken(
                    file,
                    format!("tokens {first} and {second} are both `{text}`, expected two"),
                ));
            }
        }
        Ok(Self { tokens })
    }

    /// Returns the number of ids.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is a token with this id.
    pub fn has(&self, id: u32) -> bool {
        (id as usize) < self.tokens.len()
    }

    /// Returns the token of an id that is there.
    pub fn text(&self, id: u32) -> &str {
        &self.tokens[id as usize].text
    }

    /// Returns the tokens with their ids, without those that only fill up the embedding.
    fn used(&self) -> impl Iterator<Item = (u32, &Token)> {
        (0..).zip(&self.tokens).filter(|(id, token)| {
            let fills = matches!(token.kind, TokenKind::Unused | TokenKind::UserDefined);
            !(fills && token.text == filler(*id as usize))
        })
    }

    /// Returns the ids by the tokens.
    pub fn ids(&self) -> HashMap<&str, u32> {
        self.used()
            .map(|(id, token)| (token.text.as_str(), id))
            .collect()
    }

    /// Returns the `vocab` of a `tokenizer.json`.
    pub fn map(&self) -> Map<String, Value> {
        self.used()
            .map(|(id, token)| (token.text.clone(), id.into()))
            .collect()
    }

    /// Returns the `added_tokens` of a `tokenizer.json`: those that are found in a text before it
    /// is cut. `strips` tells which of them take the spaces after them.
    pub fn added(&self, strips: &impl Fn(&str) -> bool) -> Vec<Value> {
        let added = self.used().filter_map(|(id, token)| {
            let special = match token.kind {
                TokenKind::Unknown | TokenKind::Control => true,
                TokenKind::UserDefined => false,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
            };
            Some(json!({
                "id": id,
                "content": token.text,
                "single_word": false,
                "lstrip": false,
                "rstrip": strips(&token.text),
                "normalized": false,
                "special": special,
            }))
        });
        added.collect()
    }
}

impl Token {
    fn of(id: usize, text: &str, kind: TokenKind, is_pieces: bool) -> Self {
        let is_blanks = !text.is_empty() && text.bytes().all(|byte| byte == b' ');
        let text = match kind {
            _ if text.is_empty() => format!("[EMPTY_{id}]"),
            // llama.cpp looks for runs of spaces in the text as it is.
            TokenKind::UserDefined if is_pieces && is_blanks => BLANK.repeat(text.len()),
            _ => text.to_owned(),
        };
        let kind = if kind == TokenKind::Normal && is_end(&text) {
            TokenKind::Control
        } else {
            kind
        };
        Self { text, kind }
    }
}

/// Refuses a list that has not an item for every token.
pub(super) fn same_length(
    file: &Gguf,
    key: &str,
    found: usize,
    tokens: usize,
) -> Result<(), GgufTokenizerError> {
    if found == tokens {
        return Ok(());
    }
    Err(broken(
        file,
        format!("`{key}` has {found} items, expected one for each of {tokens} tokens"),
    ))
}
