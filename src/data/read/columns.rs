//! The columns that a format reads: their names in a file, and what each must hold.

use std::collections::BTreeMap;

use super::cells::ColumnKind;
use crate::terms::Format;

/// A column that a format reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedColumn {
    /// The name that the format knows.
    pub canonical: &'static str,
    /// The name in the file.
    pub name: String,
    /// The kind of content that it must hold.
    pub kind: ColumnKind,
    /// Whether a file may lack it.
    pub optional: bool,
    /// The canonical name of a column that may stand in its place.
    pub instead: Option<&'static str>,
}

/// Returns the kind of a canonical column of a format, and whether a file may lack it.
fn shape(format: Format, column: &str) -> (ColumnKind, bool) {
    match (format, column) {
        (_, "messages") => (ColumnKind::Turns, false),
        (_, "tools" | "history") => (ColumnKind::List, true),
        (_, "input" | "system") => (ColumnKind::Text, true),
        (_, "chat_template_kwargs") => (ColumnKind::Object, true),
        (Format::Retrieval, "anchor" | "positive") => (ColumnKind::Text, false),
        (Format::Retrieval, _) => (ColumnKind::TextOrTexts, true),
        (Format::Preference, "prompt") => (ColumnKind::TextOrTurns, true),
        (_, Format::LOSS_WEIGHT) => (ColumnKind::Number, false),
        (Format::Unpaired, "label") => (ColumnKind::Label, false),
        (Format::Preference, "margin" | "score_chosen" | "score_rejected") => {
            (ColumnKind::Number, true)
        }
        (Format::Classification, "text_pair") => (ColumnKind::Text, true),
        (Format::Classification, "label") => (ColumnKind::Any, false),
        (Format::Classification, "tokens" | "tags") => (ColumnKind::List, true),
        (Format::Completion | Format::Preference | Format::Unpaired, _) => {
            (ColumnKind::TextOrTurns, false)
        }
        _ => (ColumnKind::Text, false),
    }
}

/// Returns the column that may stand in the place of another: words with tags in that of a text
/// with its label.
fn instead(format: Format, column: &str) -> Option<&'static str> {
    match (format, column) {
        (Format::Classification, "text") => Some("tokens"),
        (Format::Classification, "label") => Some("tags"),
        _ => None,
    }
}

/// Returns the columns that a format reads from a file. A column that the recipe names must be
/// there, optional or not.
pub fn wanted(format: Format, names: &BTreeMap<String, String>) -> Vec<WantedColumn> {
    let format = if is_unpaired(format, names) {
        Format::Preference
    } else {
        format
    };
    let has_conversation = format == Format::Unpaired && names.contains_key("completion");
    let wanted = |canonical: &&'static str| {
        let (kind, optional) = shape(format, canonical);
        // Whole conversations hold the prompt.
        let optional = optional || has_conversation && *canonical == "prompt";
        let optional = optional && !names.contains_key(*canonical);
        WantedColumn {
            canonical,
            name: column_name(canonical, names),
            kind,
            optional,
            instead: instead(format, canonical),
        }
    };
    let is_weighted = names.contains_key(Format::LOSS_WEIGHT) && !format.is_of_preferences();
    let weight = is_weighted.then_some(&Format::LOSS_WEIGHT);
    let columns = format.columns().iter();
    columns
        .filter(|canonical| is_read(format, names, canonical))
        .chain(weight)
        .map(wanted)
        .collect()
}

/// Whether rows with labels are the halves of pairs, because the recipe names their columns.
pub fn is_unpaired(format: Format, names: &BTreeMap<String, String>) -> bool {
    let has = |canonical: &str| names.contains_key(canonical);
    format == Format::Unpaired && (has("chosen") || has("rejected"))
}

/// Whether conversations are built from a question and an answer column, because the recipe names
/// these columns.
fn is_table(names: &BTreeMap<String, String>) -> bool {
    ["prompt", "completion"]
        .iter()
        .any(|canonical| names.contains_key(*canonical))
}

fn is_read(format: Format, names: &BTreeMap<String, String>, canonical: &str) -> bool {
    match (format, canonical) {
        (Format::Chat, "messages") => !is_table(names),
        (Format::Chat, "prompt" | "completion") => is_table(names),
        _ => true,
    }
}

/// Returns the file's name for a canonical column.
pub fn column_name(canonical: &str, names: &BTreeMap<String, String>) -> String {
    names
        .get(canonical)
        .map_or(canonical, String::as_str)
        .to_owned()
}

/// Returns the file's column with the answer, which errors of a row name unless they concern
/// another column.
pub fn main_column(format: Format, names: &BTreeMap<String, String>) -> String {
    let canonical = match format {
        Format::Unpaired if is_unpaired(format, names) => "chosen",
        Format::Text => "text",
        Format::Classification if names.contains_key("tags") => "tags",
        Format::Classification => "label",
        Format::Completion | Format::Unpaired => "completion",
        Format::Preference => "chosen",
        Format::Retrieval => "positive",
        Format::Instruction => "output",
        Format::Chat if is_table(names) => "completion",
        Format::Chat => "messages",
    };
    column_name(canonical, names)
}
