//! Streams tokens as text, in whole characters only.

use crate::data::tokenize::{TokenizeError, Tokenizer};

/// The most tokens held back for one character, which has at most four bytes. If a model generates
/// no valid characters, the stream does not wait for more.
const HELD_TOKENS: usize = 16;

/// The text of tokens that come one by one. Special tokens have no text.
///
/// The text of a new token is what the decoder adds for it after the tokens before. Pieces of one
/// character come out with the last of them.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens whose text is out, as context, followed by those whose text is not.
    tokens: Vec<u32>,
    out: usize,
}

impl<'a> TextStream<'a> {
    /// Returns a stream after these context tokens, which may be empty. A decoder that writes a
    /// space before a word omits it at the start of a text.
    pub fn after(tokenizer: &'a Tokenizer, context: &[u32]) -> Self {
        Self {
            tokenizer,
            tokens: context.to_vec(),
            out: context.len(),
        }
    }

    /// Takes a token and returns the text that is now complete.
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

    /// Returns the remaining text, where the last tokens are not a whole character.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TokenizeError> {
        self.text()
    }

    /// Decodes the tokens that are not out yet.
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
