//! The section `tokens`: special tokens by name, and tokens that the base's vocabulary does not
//! have.

use super::place::Said;
use super::section::{Section, Value};
use super::shape::Shape;

/// Tokens with a meaning of their own, as they are written in text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// Begins a sequence.
    pub bos: Option<Said<String>>,
    /// Ends a sequence.
    pub eos: Option<Said<String>>,
    /// Fills a batch.
    pub pad: Option<Said<String>>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<Said<String>>,
    /// Those at which an answer ends, besides `eos`.
    pub end_of_turn: Option<Said<Vec<String>>>,
    /// Those that the vocabulary gets where it does not have them.
    pub add: Vec<Said<AddedToken>>,
}

/// A token that is added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AddedToken {
    /// As it is written in text.
    pub token: String,
    /// The token whose rows its own start as; `None`: the mean of all rows.
    pub from: Option<Said<String>>,
    /// Whether it is left out of decoded text, as eos is.
    pub special: bool,
}

impl Tokens {
    pub(super) fn take(section: &mut Section) -> Self {
        Self {
            bos: section.text("bos"),
            eos: section.text("eos"),
            pad: section.text("pad"),
            unk: section.text("unk"),
            end_of_turn: section
                .shaped("end_of_turn", Shape::list(Shape::Text))
                .and_then(texts),
            add: section.texts_or_sections("add", AddedToken::named, AddedToken::take),
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AddedToken {
    fn named(token: String) -> Self {
        Self {
            token,
            ..Self::default()
        }
    }

    fn take(section: &mut Section) -> Self {
        section.require("token", "token: \"<|note|>\"");
        Self {
            token: section
                .text("token")
                .map(|said| said.value)
                .unwrap_or_default(),
            from: section.text("from"),
            special: section.flag("special").is_some_and(|said| said.value),
        }
    }
}

fn texts(value: Value) -> Option<Said<Vec<String>>> {
    let place = value.node.place.clone();
    let texts = value
        .list()?
        .into_iter()
        .filter_map(Value::text)
        .map(|text| text.value);
    Some(Said {
        value: texts.collect(),
        place,
    })
}
