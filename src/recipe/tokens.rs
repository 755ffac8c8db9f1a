//! The section `tokens`: special tokens by name, and tokens to add to the base's vocabulary.

use super::place::Said;
use super::section::{Section, Value};
use super::shape::Shape;

/// Special tokens and tokens to add, as they are written in text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// Begins a sequence.
    pub bos: Option<Said<String>>,
    /// Ends a sequence.
    pub eos: Option<Said<String>>,
    /// Pads a batch.
    pub pad: Option<Said<String>>,
    /// Stands for anything outside the vocabulary.
    pub unk: Option<Said<String>>,
    /// Tokens that end an answer, besides `eos`.
    pub end_of_turn: Option<Said<Vec<String>>>,
    /// Tokens that are added to the vocabulary if it lacks them.
    pub add: Vec<Said<AddedToken>>,
}

/// A token to add.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AddedToken {
    /// The token's text.
    pub token: String,
    /// The token whose embedding rows initialize the new ones; `None` for the mean of all rows.
    pub from: Option<Said<String>>,
    /// Whether it is left out of decoded text, like eos.
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

    /// Returns whether the section is empty.
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
