//! Rows of retrieval: an anchor, a text that belongs to it, and texts that do not. All are laid end
//! to end; each begins with a token that is not trained, and has no other such token.

use serde_json::Value;

use super::conversation_error::ConversationError;
use super::encode::Encoder;
use super::error::EncodeError;
use super::format::{Cells, Example, FormatError, Read};
use super::token_row::{EncodedRow, TokenRow};
use crate::terms::RowForm;

/// Columns with one more negative each.
const NEGATIVES: [&str; 9] = [
    "negative",
    "negative_1",
    "negative_2",
    "negative_3",
    "negative_4",
    "negative_5",
    "negative_6",
    "negative_7",
    "negative_8",
];

impl Cells<'_> {
    /// Reads the texts of a row; `None` if there is nothing to learn: no anchor or no positive.
    /// Empty negatives are none.
    pub(super) fn texts(&self) -> Result<Option<Read>, FormatError> {
        let (anchor, positive) = (self.cell("anchor")?, self.cell("positive")?);
        let (Value::String(anchor), Value::String(positive)) = (anchor, positive) else {
            return Ok(None);
        };
        if anchor.is_empty() || positive.is_empty() {
            return Ok(None);
        }
        let mut texts = vec![anchor, positive];
        for column in NEGATIVES {
            let all = match self.cell(column)? {
                Value::Array(all) => all,
                one => vec![one],
            };
            for text in all {
                match text {
                    Value::Null => {}
                    Value::String(text) => texts.extend(Some(text).filter(|text| !text.is_empty())),
                    found => {
                        return Err(FormatError::Content {
                            column,
                            cause: ConversationError::NoText { found }.into(),
                        });
                    }
                }
            }
        }
        Ok(Some(Example::Texts(texts).into()))
    }
}

impl Encoder {
    /// Encodes texts with the special tokens that the tokenizer adds, laid end to end.
    ///
    /// # Errors
    /// A text has no token or begins with two bos.
    pub fn texts(&self, texts: &[String]) -> Result<EncodedRow, EncodeError> {
        let (mut row, mut closing) = (TokenRow::default(), usize::MAX);
        for text in texts {
            let framed = self.tokenizer.framed(text, None)?;
            let ids = framed.ids;
            closing = closing.min(framed.closing);
            if ids.is_empty() {
                return Err(EncodeError::NoToken);
            }
            if let ([first, second, ..], Some(bos)) = (ids.as_slice(), self.tokenizer.bos_id())
                && [*first, *second] == [bos, bos]
            {
                return Err(EncodeError::DoubledBos { bos });
            }
            row.trained.extend((0..ids.len()).map(|place| place > 0));
            row.ids.extend(ids);
        }
        Ok(EncodedRow {
            row,
            form: RowForm::Texts,
            // A text without tokens of its own may have fewer at its start.
            closing: if texts.is_empty() { 0 } else { closing as u32 },
            ..EncodedRow::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::encoder;
    use super::*;

    #[test]
    fn each_text_begins_with_a_token_that_is_not_trained() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        let texts = ["Q: x", "yes", "no"].map(str::to_owned);
        let EncodedRow { row, form, .. } = encoder.texts(&texts).expect("encoded");
        assert_eq!(form, RowForm::Texts);
        let starts: Vec<usize> = (0..row.ids.len())
            .filter(|place| !row.trained[*place])
            .collect();
        assert_eq!(starts.len(), 3);
        let second = encoder.tokenizer.ids("yes", true).expect("tokens");
        assert_eq!(row.ids[starts[1]..starts[2]], second);
    }
}
