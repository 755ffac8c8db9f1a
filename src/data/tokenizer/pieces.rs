//! Token ids as readable pieces of text, each with its label. A character that takes several tokens
//! is one piece.

use super::error::TokenizeError;
use super::tokenize::Tokenizer;

/// Maximum number of tokens that one character takes.
const MAX_TOKENS: usize = 4;

/// The replacement character, which a decoder writes for a part of a character.
const PART: char = '\u{fffd}';

/// The text of one token, or of a few that share a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenText {
    /// The text as it stands in the row.
    pub text: String,
    /// Whether the tokens are targets.
    pub trained: bool,
}

/// Returns the pieces of a row. Each is decoded after the piece before it, because decoders treat
/// the start of a text in their own way.
///
/// # Errors
/// The tokenizer's decoder fails.
pub fn pieces(
    tokenizer: &Tokenizer,
    ids: &[u32],
    trained: &[bool],
) -> Result<Vec<TokenText>, TokenizeError> {
    let (mut pieces, mut before, mut start) = (Vec::new(), 0, 0);
    for end in 1..=ids.len() {
        let text = behind(tokenizer, &ids[before..start], &ids[start..end])?;
        let is_last = end == ids.len() || trained[end] != trained[start];
        if text.ends_with(PART) && end - start < MAX_TOKENS && !is_last {
            continue;
        }
        pieces.push(TokenText {
            text,
            trained: trained[start],
        });
        (before, start) = (start, end);
    }
    Ok(pieces)
}

/// Returns the text that `ids` add to the text of `before`.
fn behind(tokenizer: &Tokenizer, before: &[u32], ids: &[u32]) -> Result<String, TokenizeError> {
    let (head, whole) = (
        tokenizer.decode(before, false)?,
        tokenizer.decode(&[before, ids].concat(), false)?,
    );
    match whole.strip_prefix(&head) {
        Some(text) => Ok(text.to_owned()),
        None => tokenizer.decode(ids, false),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn pieces_put_together_are_the_text_with_its_spaces_and_characters() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let folders = [
            "archs/llama/model",
            "archs/mistral/model",
            "archs/qwen2/model",
            "archs/qwen3/model",
            "chat/tokenizer",
        ];
        for folder in folders {
            let tokenizer = Tokenizer::open(&golden.join(folder)).expect("a tokenizer");
            for text in [
                "Fever:  high\n\ttemperature",
                "Grüße 🙂🩺 법 été",
                "\x1b[31m </s> <|im_end|> x",
            ] {
                let ids = tokenizer.encode(text, true).expect("encoded").ids;
                let joined: String = pieces(&tokenizer, &ids, &vec![true; ids.len()])
                    .expect("pieces")
                    .into_iter()
                    .map(|piece| piece.text)
                    .collect();
                assert_eq!(
                    joined,
                    tokenizer.decode(&ids, false).expect("decoded"),
                    "{folder}"
                );
            }
        }
    }

    #[test]
    fn a_label_that_changes_ends_a_piece() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let tokenizer = Tokenizer::open(&golden.join("archs/llama/model")).expect("a tokenizer");
        let ids = tokenizer.encode("🩺", false).expect("encoded").ids;
        assert!(ids.len() > 1, "{ids:?}");
        let mut trained = vec![true; ids.len()];
        assert_eq!(
            pieces(&tokenizer, &ids, &trained).expect("pieces"),
            [TokenText {
                text: "🩺".into(),
                trained: true
            }]
        );
        trained[0] = false;
        let split = pieces(&tokenizer, &ids, &trained).expect("pieces");
        assert!(
            split.len() > 1 && !split[0].trained && split[1].trained,
            "{split:?}"
        );
    }
}
