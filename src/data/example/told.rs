//! Error messages for a row that makes no tokens, with quotes of the row marked: see
//! [`crate::fault::quoted`].

use std::collections::HashSet;
use std::fmt::Display;

use serde_json::Value;

use super::conversation_error::ConversationError;
use super::encode::Encoder;
use super::error::EncodeError;
use crate::data::read::cells;
use crate::data::read::parquet::Batch;
use crate::data::template::{self, ChatTemplate};
use crate::data::tokenizer::error::TokenizeError;
use crate::fault::{quoted, quoting, without_data};
use crate::terms::Format;

/// Number of consecutive characters of a row in a message from which on the whole message is taken
/// to quote the row. Shorter matches are words that messages and rows share.
const WINDOW: usize = 16;

/// An error of a row.
pub trait Told: Display {
    /// Returns its message.
    fn message(&self) -> String {
        self.to_string()
    }

    /// Returns the parts of its message that are text of the row, or may be.
    fn quotes(&self, template: Option<&ChatTemplate>) -> Vec<String>;
}

impl Told for cells::CellError {
    fn quotes(&self, _: Option<&ChatTemplate>) -> Vec<String> {
        Vec::new()
    }
}

impl Told for ConversationError {
    fn quotes(&self, _: Option<&ChatTemplate>) -> Vec<String> {
        self.quotes()
    }
}

impl Told for EncodeError {
    fn message(&self) -> String {
        self.reason()
    }

    fn quotes(&self, template: Option<&ChatTemplate>) -> Vec<String> {
        let quote = match self {
            Self::Template(template::TemplateError::Raised { message }) => {
                not_of_template(message, template)
            }
            // Behind the kind of fault stands what the engine says, often with the value that it is
            // about.
            Self::Template(template::TemplateError::Render { cause, .. }) => detail(cause),
            // The reason may be what became of a part of the conversation.
            Self::Template(template::TemplateError::NoSpans { reason }) => {
                match reason.split_once("refuses the conversation: ") {
                    Some((_, message)) => not_of_template(message, template),
                    None => reason
                        .split_once("fails at line ")
                        .and_then(|(_, rest)| rest.split_once(": "))
                        .map_or("", |(_, cause)| detail(cause)),
                }
            }
            Self::Template(template::TemplateError::Panicked { cause })
            | Self::Tokenizer(
                TokenizeError::Encode { cause, .. } | TokenizeError::Panicked { cause, .. },
            ) => cause,
            _ => "",
        };
        if quote.is_empty() {
            Vec::new()
        } else {
            vec![quote.to_owned()]
        }
    }
}

/// Returns the detail of a message of the engine, without the kind of error.
fn detail(cause: &str) -> &str {
    cause.split_once(": ").map_or("", |(_, detail)| detail)
}

/// Returns the end of a template's message that does not appear word for word in the template, and
/// so comes from the row.
fn not_of_template<'a>(message: &'a str, template: Option<&ChatTemplate>) -> &'a str {
    let Some(source) = template.map(ChatTemplate::source) else {
        return message;
    };
    if source.contains(message) {
        return "";
    }
    let (mut known, mut unknown) = (0, message.len());
    while unknown - known > 1 {
        let middle = message.floor_char_boundary(usize::midpoint(known, unknown));
        if middle <= known {
            break;
        }
        if source.contains(&message[..middle]) {
            known = middle;
        } else {
            unknown = middle;
        }
    }
    &message[known..]
}

/// Returns the error message for a row of a batch, with quotes of the row marked.
pub fn words(
    cause: &dyn Told,
    encoder: &Encoder,
    format: Format,
    batch: &Batch,
    row: usize,
) -> String {
    let quotes = cause.quotes(encoder.template.as_ref());
    let message = quotes
        .iter()
        .fold(cause.message(), |message, quote| quoting(&message, quote));
    // A message of tomorrow may quote a cell and not say so. Special tokens are the tokenizer's,
    // though a row may have them too.
    let special = &encoder.tokenizer.special().all;
    let own = special
        .iter()
        .filter(|token| !token.is_empty())
        .fold(without_data(&message).into_owned(), |own, token| {
            own.replace(token.as_str(), "\0")
        });
    if quotes_row(&own, batch, row, format) {
        quoted(cause.message())
    } else {
        message
    }
}

fn quotes_row(message: &str, batch: &Batch, row: usize, format: Format) -> bool {
    let windows: HashSet<&str> = windows(message).collect();
    let is_quoted = |text: &str| self::windows(text).any(|window| windows.contains(window));
    !windows.is_empty()
        && format.columns().iter().any(|column| {
            batch
                .cell(column, row)
                .is_ok_and(|cell| any_text(&cell, &is_quoted))
        })
}

/// Returns every run of [`WINDOW`] characters.
fn windows(text: &str) -> impl Iterator<Item = &str> {
    let ends = text
        .char_indices()
        .map(|(start, c)| start + c.len_utf8())
        .skip(WINDOW - 1);
    text.char_indices()
        .map(|(start, _)| start)
        .zip(ends)
        .map(|(start, end)| &text[start..end])
}

fn any_text(value: &Value, is: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Array(items) => items.iter().any(|item| any_text(item, is)),
        Value::Object(entries) => entries.values().any(|value| any_text(value, is)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::special::SpecialTokens;

    #[test]
    fn what_a_template_says_itself_is_no_text_of_the_row() {
        let source = "{{ raise_exception('roles must alternate, höre: ' ~ messages[0].content) }}";
        let template = ChatTemplate::new(
            source,
            &SpecialTokens::default(),
            jiff::Timestamp::UNIX_EPOCH,
        )
        .expect("valid");
        let rest = |message| not_of_template(message, Some(&template));
        assert_eq!(rest("roles must alternate"), "");
        assert_eq!(
            rest("roles must alternate, höre: Smith has gout"),
            "Smith has gout"
        );
        assert_eq!(rest("Smith has gout"), "Smith has gout");
        assert_eq!(rest("ä"), "ä");
        assert_eq!(rest(""), "");
        assert_eq!(not_of_template("roles", None), "roles");
    }

    #[test]
    fn windows_are_of_whole_characters() {
        let text = "ü".repeat(WINDOW) + "ab";
        assert_eq!(windows(&text).count(), 3);
        assert_eq!(windows("short").count(), 0);
    }
}
