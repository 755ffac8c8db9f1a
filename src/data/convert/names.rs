//! Columns that are recognized by name: the format of rows with these columns, and the content of
//! each column.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;

use super::shape::{Field, Shape};
use crate::data::read::likely::in_recipe;
use crate::data::read::names::{certain_names, is_certainly};
use crate::terms::Format;

/// Content of a column, as far as a format cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Text.
    Text,
    /// A list of turns.
    Turns,
    /// Something else.
    Other,
}

/// A format that the columns fit, and the file's name for each of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The format.
    pub format: Format,
    /// Map from canonical names to the names in the file.
    pub columns: BTreeMap<String, String>,
}

impl std::fmt::Display for Proposal {
    /// Formats the proposal as in a recipe, on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "format: {}", self.format)?;
        let named: Vec<_> = self
            .columns
            .iter()
            .filter(|(canonical, name)| canonical != name)
            .collect();
        if named.is_empty() && !self.needs_names() {
            return Ok(());
        }
        let listed = if self.needs_names() {
            self.columns.iter().collect()
        } else {
            named
        };
        write!(f, ", columns: {}", in_recipe(&listed))
    }
}

impl Proposal {
    /// Whether a recipe must name the columns: a chat of a prompt and an answer is recognized only
    /// then.
    fn needs_names(&self) -> bool {
        self.format == Format::Chat && !self.columns.contains_key("messages")
    }
}

/// Whether a list of objects with this name holds the turns of a conversation, or tools.
pub(super) fn is_turns(name: &str) -> bool {
    ["messages", "tools", "chosen", "rejected"]
        .iter()
        .any(|canonical| is_certainly(canonical, name))
}

/// Whether a file may lack a column.
fn is_optional(canonical: &str) -> bool {
    matches!(
        canonical,
        "input"
            | "tools"
            | "system"
            | "history"
            | "chat_template_kwargs"
            | "margin"
            | "score_chosen"
            | "score_rejected"
            | "text_pair"
    ) || canonical.starts_with("negative")
}

/// Formats in the order in which they are tried, each with its columns.
const SHAPES: [(Format, &[&str]); 11] = [
    (
        Format::Chat,
        &["messages", "tools", "system", "chat_template_kwargs"],
    ),
    (
        Format::Instruction,
        &["instruction", "input", "output", "system", "history"],
    ),
    (
        Format::Completion,
        &["prompt", "completion", "tools", "chat_template_kwargs"],
    ),
    (Format::Text, &["text"]),
    (Format::Chat, &["prompt", "completion", "system"]),
    (Format::Preference, Format::Preference.columns()),
    // A pair without a prompt of its own.
    (
        Format::Preference,
        Format::Preference.columns().split_at(1).1,
    ),
    (Format::Classification, &["text", "text_pair", "label"]),
    (Format::Classification, &["tokens", "tags"]),
    (
        Format::Unpaired,
        &[
            "prompt",
            "completion",
            "label",
            "tools",
            "chat_template_kwargs",
        ],
    ),
    (Format::Retrieval, Format::Retrieval.columns()),
];

/// Columns whose names show that a table is more than plain texts.
const ROLES: [&str; 4] = ["messages", "instruction", "prompt", "completion"];

/// Returns the sets of columns that a format can be made of, for messages.
pub(super) fn asked(format: Format) -> Vec<String> {
    let of_format = SHAPES.iter().filter(|(of, _)| *of == format);
    let required = |columns: &&[&str]| {
        let names: Vec<String> = columns
            .iter()
            .filter(|name| !is_optional(name))
            .map(|name| format!("`{name}`"))
            .collect();
        names.join(" and ")
    };
    of_format.map(|(_, columns)| required(columns)).collect()
}

/// Proposes the format of columns, as requested or as they suggest; `said` holds the given names.
pub fn propose(
    columns: &[(String, Holds)],
    asked: Option<Format>,
    said: &BTreeMap<String, String>,
) -> Option<Proposal> {
    let is_preference = ["chosen", "rejected"]
        .iter()
        .all(|name| columns.iter().any(|(column, _)| column == name));
    for (format, parts) in SHAPES {
        let is_meant = asked.is_none_or(|asked| asked == format)
            && said.keys().all(|name| parts.contains(&name.as_str()));
        // Neither answer of a pair is what a model is to say before somebody says so.
        let is_guess = asked.is_none() && said.is_empty();
        if !is_meant || (is_guess && (is_preference || format.is_of_preferences())) {
            continue;
        }
        if let Some(columns) = names(format, parts, columns, said) {
            return Some(Proposal { format, columns });
        }
    }
    None
}

fn names(
    format: Format,
    parts: &[&str],
    columns: &[(String, Holds)],
    said: &BTreeMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    let mut found: BTreeMap<String, String> = said.clone();
    // A question without an answer that is text is no text to learn.
    let is_role = |name: &String| ROLES.iter().any(|role| is_certainly(role, name));
    let has_roles = columns.iter().any(|(name, _)| is_role(name));
    for part in parts.iter().filter(|part| !said.contains_key(**part)) {
        let is_free = |name: &String| !found.values().any(|taken| taken == name);
        let fits = |holds: Holds| match *part {
            "messages" => holds != Holds::Other,
            "tools"
            | "history"
            | "chat_template_kwargs"
            | "label"
            | "tokens"
            | "tags"
            | "margin"
            | "score_chosen"
            | "score_rejected" => true,
            part if part.starts_with("negative") => true,
            _ if format.is_of_preferences() => holds != Holds::Other,
            _ => holds == Holds::Text,
        };
        let of_name = |alias: &str| {
            let same = |(name, holds): &&(String, Holds)| {
                name.eq_ignore_ascii_case(alias) && fits(*holds) && is_free(name)
            };
            columns.iter().find(same).map(|(name, _)| name.clone())
        };
        let by_name = certain_names(part).find_map(of_name);
        // Of one that is alone in what it holds the name does not matter.
        let alone = |kind: Holds| {
            let mut of_kind = columns.iter().filter(|(_, holds)| *holds == kind);
            of_kind
                .next()
                .filter(|_| of_kind.next().is_none())
                .map(|(name, _)| name.clone())
        };
        let name = by_name.or_else(|| match *part {
            "messages" => alone(Holds::Turns),
            "text" if !has_roles => alone(Holds::Text),
            _ => None,
        });
        match name {
            Some(name) => drop(found.insert((*part).to_owned(), name)),
            None if is_optional(part) => {}
            None => return None,
        }
    }
    Some(found)
}

/// Keys of a turn's speaker, of which each turn has one.
const SPEAKERS: [&str; 2] = ["role", "from"];

impl Field {
    /// Returns the content that a format can use. A few values of another kind are invalid rows,
    /// and do not make it another kind of column.
    pub(super) fn holds(&self) -> Holds {
        let is_mostly = |count: u64| count * 2 > self.count - self.nulls;
        let is_named = || is_certainly("messages", &self.name);
        match &self.shape {
            Shape::Text => Holds::Text,
            Shape::Mixed if is_mostly(self.texts) => Holds::Text,
            Shape::Mixed if is_mostly(self.lists) && is_named() => Holds::Turns,
            Shape::List(item) => match &**item {
                Shape::Object(fields) if SPEAKERS.iter().any(|key| fields.has(key)) => Holds::Turns,
                // One of the turns is no object.
                Shape::Mixed if is_named() => Holds::Turns,
                _ => Holds::Other,
            },
            _ => Holds::Other,
        }
    }
}

/// Returns the content of a Parquet column that a format can use.
pub fn holds(data_type: &DataType) -> Holds {
    match data_type {
        DataType::Binary | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Holds::Text,
        DataType::Dictionary(_, value) => holds(value),
        DataType::List(item) | DataType::LargeList(item) => match item.data_type() {
            DataType::Struct(fields)
                if fields
                    .iter()
                    .any(|field| SPEAKERS.contains(&field.name().as_str())) =>
            {
                Holds::Turns
            }
            _ => Holds::Other,
        },
        _ => Holds::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Vec<(String, Holds)> {
        let holds = |name: &str| match name {
            "messages" | "conversations" | "talk" => Holds::Turns,
            "label" | "id" => Holds::Other,
            _ => Holds::Text,
        };
        names
            .iter()
            .map(|name| ((*name).to_owned(), holds(name)))
            .collect()
    }

    #[test]
    fn tables_that_people_bring_are_known_by_name() {
        let told = |names: &[&str]| {
            propose(&columns(names), None, &BTreeMap::new())
                .map_or_else(String::new, |proposal| proposal.to_string())
        };
        for (names, expected) in [
            (
                &["instruction", "input", "output"][..],
                "format: instruction",
            ),
            (
                &["instruction", "context", "response", "category"],
                "format: instruction, columns: {input: context, output: response}",
            ),
            (
                &["prompt", "response"],
                "format: completion, columns: {completion: response}",
            ),
            (&["prompt", "completion", "label"], "format: completion"),
            (
                &["id", "Question", "Answer"],
                "format: completion, columns: {completion: Answer, prompt: Question}",
            ),
            (&["messages", "tools"], "format: chat"),
            (
                &["id", "conversations"],
                "format: chat, columns: {messages: conversations}",
            ),
            (&["talk", "id"], "format: chat, columns: {messages: talk}"),
            (&["text", "messages"], "format: chat"),
            (&["text", "path"], "format: text"),
            (
                &["the sentence"],
                "format: text, columns: {text: \"the sentence\"}",
            ),
            (&["prompt", "chosen", "rejected"], ""),
            (&["id", "label"], ""),
            (&["question", "label"], ""),
            (&["title", "abstract"], ""),
        ] {
            assert_eq!(told(names), expected, "{names:?}");
        }
    }

    #[test]
    fn what_is_said_counts_before_what_is_guessed() {
        let said = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(to, from)| ((*to).into(), (*from).into()))
                .collect()
        };
        let table = columns(&["question", "answer", "system", "text"]);
        let told = |asked, pairs: &[(&str, &str)]| {
            propose(&table, asked, &said(pairs)).map(|proposal| proposal.to_string())
        };
        assert_eq!(
            told(Some(Format::Chat), &[]).as_deref(),
            Some("format: chat, columns: {completion: answer, prompt: question, system: system}")
        );
        assert_eq!(
            told(None, &[("text", "answer")]).as_deref(),
            Some("format: text, columns: {text: answer}")
        );
        assert_eq!(
            told(None, &[("prompt", "text")]).as_deref(),
            Some("format: completion, columns: {completion: answer, prompt: text}")
        );
        assert_eq!(told(Some(Format::Instruction), &[]), None);
        assert_eq!(
            told(None, &[("messages", "text")]).as_deref(),
            Some("format: chat, columns: {messages: text}")
        );
    }
}
