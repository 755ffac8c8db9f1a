//! Contents of rows that have no effect on training: counted, stored with the tokens, and reported
//! by each run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::visible::visible;

/// Content of a row that is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unread {
    /// Tools that appear nowhere in the row's text.
    Tools,
    /// The column `system` of a conversation that has a system message of its own.
    System,
    /// `weight`, `train` or `loss` of a turn that is not the assistant's, contrary to `train_on`.
    Weight,
    /// A key of turns that does not affect the text.
    Key(String),
}

/// Number of rows with each unused content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Unread, u64>);

impl Counts {
    /// Counts a row.
    pub fn add(&mut self, unread: Vec<Unread>) {
        for unread in unread {
            *self.0.entry(unread).or_default() += 1;
        }
    }

    /// Adds the counts of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        other
            .0
            .into_iter()
            .for_each(|(unread, rows)| *self.0.entry(unread).or_default() += rows);
        self
    }

    /// Formats the counts as text for a token cache.
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.0.iter().collect::<Vec<_>>())
            .expect("words and numbers have a JSON form")
    }

    /// Reads the counts from the text in a token cache.
    pub fn from_text(text: &str) -> Self {
        Self(
            serde_json::from_str::<Vec<_>>(text)
                .unwrap_or_default()
                .into_iter()
                .collect(),
        )
    }

    /// Returns notes for the user on the files of a source with `rows` rows.
    pub fn notes(&self, files: &[impl AsRef<Path>], rows: u64) -> Vec<String> {
        let source = label(files);
        let of_kind = |(unread, count): (&Unread, &u64)| {
            let text = match unread {
                Unread::Tools => {
                    "`tools` appear nowhere in their text: the chat template does not print them"
                }
                Unread::System => {
                    "column `system` is not used: the conversation has a system message of its own"
                }
                Unread::Weight => {
                    "`weight`, `train` or `loss` of a turn that is not the assistant's changes \
                    nothing: `train_on` decides"
                }
                Unread::Key(_) => return None,
            };
            Some(format!("{source}: in {count} of {rows} rows {text}"))
        };
        let key = |(unread, count): (&Unread, &u64)| match unread {
            Unread::Key(key) => Some(format!("`{}` ({count} of {rows} rows)", visible(key))),
            _ => None,
        };
        let mut notes: Vec<String> = self.0.iter().filter_map(of_kind).collect();
        let keys: Vec<String> = self.0.iter().filter_map(key).collect();
        if !keys.is_empty() {
            notes.push(format!(
                "{source}: keys of turns that the chat template does not print: {}",
                keys.join(", ")
            ));
        }
        notes
    }
}

/// Returns a name for the files of a source.
fn label(files: &[impl AsRef<Path>]) -> String {
    let first = files
        .first()
        .map(|file| visible(&file.as_ref().display().to_string()))
        .unwrap_or_default();
    match files.len() {
        0 | 1 => format!("`{first}`"),
        count => format!("`{first}` and {} more", count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_as_text_and_added_up() {
        let mut counts = Counts::default();
        counts.add(vec![Unread::Tools, Unread::Key("name".into())]);
        counts.add(vec![
            Unread::Key("name".into()),
            Unread::Key("id\u{1b}".into()),
        ]);
        assert_eq!(Counts::from_text(&counts.to_text()), counts);
        let both = counts.clone().and(counts);
        let notes = both.notes(&["a.parquet", "b.parquet"], 8);
        let keys = "keys of turns that the chat template does not print: `id␛` (2 of 8 rows), \
            `name` (4 of 8 rows)";
        assert_eq!(notes.len(), 2);
        assert!(
            notes[0].starts_with("`a.parquet` and 1 more: in 2 of 8 rows `tools` appear nowhere"),
            "{}",
            notes[0]
        );
        assert_eq!(notes[1], format!("`a.parquet` and 1 more: {keys}"));
        assert!(Counts::default().notes(&["a.parquet"], 1).is_empty());
    }
}
