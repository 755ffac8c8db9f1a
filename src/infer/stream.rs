//! Tokens to text as they come, whole characters only.

use crate::data::tokenize::{TokenizeError, Tokenizer};

/// Tokens that are held back at most for one character, which has four bytes: a model that says no
/// characters at all is not waited for.
const HELD_TOKENS: usize = 16;

/// The text of tokens that come one by one. Special tokens have none.
///
/// Text of a new token is what the decoder writes for it behind the tokens before: pieces of tokens
/// that make one character come when the last of them is there.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens whose text is out, as context, and those whose text is not.
    tokens: Vec<u32>,
    out: usize,
}

impl<'a> TextStream<'a> {
    /// A text that follows on that of these tokens, which may be none: a decoder that writes a
    /// space before a word leaves it out where a text begins.
    pub fn after(tokenizer: &'a Tokenizer, context: &[u32]) -> Self {
        Self {
            tokenizer,
            tokens: context.to_vec(),
            out: context.len(),
        }
    }

    /// Takes a token; returns the text that is whole now.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, TokenizeError> {
        self.tokens.push(token);
        let text = self.text()?;
        let held = self.tokens.len() - self.out;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && held < HELD_TOKENS {
            return Ok(String::new());
        }
        if !text.is_empty() {
            self.tokens.drain(..self.out);
            self.out = self.tokens.len();
        }
        Ok(text)
    }

    /// The rest, where the last tokens make no whole character.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TokenizeError> {
        self.text()
    }

    /// The text of the tokens that are not out.
    fn text(&self) -> Result<String, TokenizeError> {
        let before = self.tokenizer.decode(&self.tokens[..self.out], true)?;
        let text = self.tokenizer.decode(&self.tokens, true)?;
        // A decoder that cleans up may change what was out; that stays as it is.
        let alike = before
            .char_indices()
            .zip(text.chars())
            .find(|((_, left), right)| left != right);
        let out = alike.map_or(before.len().min(text.len()), |((place, _), _)| place);
        Ok(text[out..].to_owned())
    }
}
