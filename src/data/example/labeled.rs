//! Rows with labels: texts and words from their cells, as tokens.

use serde_json::Value;

use super::classes::{ClassReading, Labeled, number, unfolded};
use super::conversation_error::ConversationError;
use super::encode::Encoder;
use super::error::EncodeError;
use super::format::{Cells, Example, FormatError, Read};
use super::token_row::{EncodedRow, TokenRow};
use crate::data::tokenizer::tokenize::Framed;
use crate::terms::{MarginSource, ProblemType, RowForm};

/// A tag of a word that has none: torch's `ignore_index`.
const IGNORED: i64 = -100;

fn fault(column: &'static str, cause: ConversationError) -> FormatError {
    FormatError::Content {
        column,
        cause: cause.into(),
    }
}

impl Cells<'_> {
    /// Reads a text or words with their labels; `None` if a needed cell is null or the text is
    /// empty.
    pub(super) fn labeled(&self, reading: &ClassReading) -> Result<Option<Read>, FormatError> {
        if reading.problem == ProblemType::Token {
            return self.words(reading);
        }
        let (text, label) = (self.cell("text")?, self.label(reading)?);
        let pair = self.cell("text_pair")?;
        let (Value::String(text), false) = (text, label.is_null()) else {
            return Ok(None);
        };
        if text.is_empty() {
            return Ok(None);
        }
        let values = reading
            .values(&label)
            .map_err(|cause| fault("label", cause))?;
        let labeled = Labeled::Text {
            text,
            pair: pair.as_str().map(str::to_owned),
            values,
        };
        Ok(Some(Example::Labeled(labeled).into()))
    }

    fn label(&self, reading: &ClassReading) -> Result<Value, FormatError> {
        let label = self.cell("label")?;
        Ok(if reading.problem == ProblemType::SingleLabel {
            label
        } else {
            unfolded(label)
        })
    }

    fn words(&self, reading: &ClassReading) -> Result<Option<Read>, FormatError> {
        let (tokens, tags) = (unfolded(self.cell("tokens")?), unfolded(self.cell("tags")?));
        let (Value::Array(tokens), Value::Array(tags)) = (&tokens, &tags) else {
            return match (&tokens, &tags) {
                (Value::Null, _) | (_, Value::Null) => Ok(None),
                (Value::Array(_), found) => Err(fault("tags", reading.refused(found))),
                (found, _) => Err(fault(
                    "tokens",
                    ConversationError::NoWord {
                        found: found.clone(),
                    },
                )),
            };
        };
        if tokens.len() != tags.len() {
            let cause = ConversationError::TagCount {
                tags: tags.len(),
                words: tokens.len(),
            };
            return Err(fault("tags", cause));
        }
        let word = |found: &Value| match found {
            Value::String(word) if !word.trim().is_empty() => Ok(word.trim().to_owned()),
            found => Err(fault(
                "tokens",
                ConversationError::NoWord {
                    found: found.clone(),
                },
            )),
        };
        let class = |tag: &Value| match tag {
            Value::Null => Ok(None),
            tag if tag.as_i64() == Some(IGNORED) => Ok(None),
            tag => reading
                .class(tag)
                .map(Some)
                .map_err(|cause| fault("tags", cause)),
        };
        let labeled = Labeled::Words {
            words: tokens.iter().map(word).collect::<Result<_, _>>()?,
            classes: tags.iter().map(class).collect::<Result<_, _>>()?,
        };
        Ok(Some(Example::Labeled(labeled).into()))
    }

    /// Reads the margin of a pair.
    pub(super) fn margin(&self, source: MarginSource) -> Result<Option<f32>, FormatError> {
        let of = |column: &'static str| {
            let found = self.cell(column)?;
            number(&found).ok_or_else(|| {
                fault(
                    column,
                    ConversationError::ClassLabel {
                        found,
                        expected: "a number".to_owned(),
                    },
                )
            })
        };
        Ok(match source {
            MarginSource::None => None,
            MarginSource::Column => Some(of("margin")? as f32),
            MarginSource::Scores => Some((of("score_chosen")? - of("score_rejected")?) as f32),
        })
    }
}

impl Encoder {
    /// Encodes a text or a pair of texts with the special tokens that the tokenizer adds and no eos
    /// of ours; or words joined by spaces, of which the first token of each that is no other's has
    /// the word's class.
    ///
    /// # Errors
    /// The tokenizer fails, the text ends with padding, or no word has a class.
    pub(super) fn labeled(&self, labeled: &Labeled) -> Result<EncodedRow, EncodeError> {
        match labeled {
            Labeled::Text { text, pair, values } => {
                let Framed {
                    ids,
                    second,
                    is_own,
                    closing,
                } = self.scored(text, pair.as_deref())?;
                // Two empty texts have no token of their own, and are scored all the same.
                let trained = if is_own.contains(&true) {
                    is_own
                } else {
                    vec![true; ids.len()]
                };
                Ok(EncodedRow {
                    row: TokenRow { ids, trained },
                    form: RowForm::Labeled {
                        values: values.len() as u32,
                        second: second as u32,
                    },
                    values: values.clone(),
                    closing: closing as u32,
                })
            }
            Labeled::Words { words, classes } => {
                let (mut row, first_tokens, closing) = self.words(words)?;
                let mut tagged: Vec<(usize, u32)> = first_tokens
                    .into_iter()
                    .zip(classes)
                    .filter_map(|(token, class)| Some((token?, (*class)?)))
                    .collect();
                tagged.sort_unstable();
                if tagged.is_empty() {
                    return Err(EncodeError::NoTaggedWord);
                }
                for (token, _) in &tagged {
                    row.trained[*token] = true;
                }
                Ok(EncodedRow {
                    row,
                    form: RowForm::Tagged {
                        values: tagged.len() as u32,
                    },
                    values: tagged.iter().map(|(_, class)| *class as f32).collect(),
                    closing: closing as u32,
                })
            }
        }
    }

    /// Returns the tokens of a text, or of a pair, that is scored.
    ///
    /// # Errors
    /// The tokenizer fails, or the text ends with padding.
    pub fn scored(&self, text: &str, pair: Option<&str>) -> Result<Framed, EncodeError> {
        let framed = self.tokenizer.framed(text, pair)?;
        match (framed.ids.last(), self.tokenizer.pad_id()) {
            (Some(last), Some(pad)) if *last == pad => Err(EncodeError::EndsWithPadding {
                token: self.tokenizer.token_of(pad).unwrap_or_default(),
            }),
            _ => Ok(framed),
        }
    }

    /// Encodes words that are joined by spaces; returns the row, of which nothing is trained, the
    /// first token of each word that is not of a word before it, and how many tokens the tokenizer
    /// put at the end.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn words(
        &self,
        words: &[String],
    ) -> Result<(TokenRow, Vec<Option<usize>>, usize), EncodeError> {
        let text = words.join(" ");
        let encoding = self.tokenizer.encode(&text, true)?;
        let (mut start, mut token, mut first_tokens) = (0, 0, Vec::with_capacity(words.len()));
        for word in words {
            let end = start + word.len();
            let is_before = |&(first, last): &(usize, usize)| last <= start || first == last;
            while encoding.offsets.get(token).is_some_and(is_before) {
                token += 1;
            }
            let is_own = encoding
                .offsets
                .get(token)
                .is_some_and(|(first, _)| *first < end);
            first_tokens.push(is_own.then_some(token));
            token += usize::from(is_own);
            start = end + 1;
        }
        // Special tokens stand for no bytes.
        let is_added = |(first, last): &&(usize, usize)| first == last;
        let closing = encoding.offsets.iter().rev().take_while(is_added).count();
        let row = TokenRow {
            trained: vec![false; encoding.ids.len()],
            ids: encoding.ids,
        };
        Ok((row, first_tokens, closing))
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::encoder;
    use super::*;

    #[test]
    fn the_first_own_token_of_a_word_has_its_class() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        // The tokenizer has one token per character except `::`, and puts a bos in front.
        let words = ["ab", "::", "c"].map(str::to_owned);
        let labeled = Labeled::Words {
            words: words.to_vec(),
            classes: vec![Some(2), Some(0), None],
        };
        let tokens = encoder.labeled(&labeled).expect("encoded");
        let first: Vec<usize> = (0..tokens.row.ids.len())
            .filter(|place| tokens.row.trained[*place])
            .collect();
        assert_eq!((first, tokens.values), (vec![1, 4], vec![2.0, 0.0]));
        let none = Labeled::Words {
            words: words.to_vec(),
            classes: vec![None; 3],
        };
        assert!(matches!(
            encoder.labeled(&none),
            Err(EncodeError::NoTaggedWord)
        ));
    }

    #[test]
    fn texts_have_the_special_tokens_of_the_tokenizer_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        let text = encoder.scored("ab", None).expect("encoded");
        assert_eq!((text.ids.len(), text.ids[0]), (3, 0), "a bos, and no eos");
        assert_eq!((text.second, text.closing), (3, 0));
    }
}
