//! Data by their footers: which format their columns are, whatever these are called.

use std::collections::BTreeMap;

use crate::cli::Failure;
use crate::data::{columns, find_files, inspect};
use crate::fault::{Exit, Fault};
use crate::hub::DatasetPath;
use crate::plan::cached_files;
use crate::terms::Format;

/// Usual names of a format's columns: the format's own first. A column with `?` may be missing.
type Layout = (Format, &'static [(&'static str, bool, &'static [&'static str])]);

const LAYOUTS: [Layout; 4] = [
    (
        Format::Chat,
        &[("messages", true, &["messages", "conversations", "conversation", "dialogue", "dialog"]), ("tools", false, &["tools"])],
    ),
    (
        Format::Instruction,
        &[
            ("instruction", true, &["instruction"]),
            ("input", false, &["input", "context"]),
            ("output", true, &["output", "response", "answer", "completion"]),
        ],
    ),
    (
        Format::Completion,
        &[
            ("prompt", true, &["prompt", "question", "query", "input", "source"]),
            ("completion", true, &["completion", "response", "answer", "output", "target"]),
        ],
    ),
    (Format::Text, &[("text", true, &["text", "content", "body", "document"])]),
];

/// A dataset that was looked at.
pub(super) struct Set {
    pub path: String,
    pub format: Format,
    /// The format's name of a column and the file's, where they differ.
    pub columns: BTreeMap<String, String>,
    pub rows: u64,
}

/// Looks at the footers of a path's files.
pub(super) fn look(path: &str) -> Result<Set, Failure> {
    let files = if DatasetPath::is_one(path) { cached_files(path)? } else { find_files(path)? };
    let (mut names, mut rows) = (Vec::new(), 0);
    for file in &files {
        let (of_file, count) = columns(file)?;
        rows += count;
        for (name, _) in of_file.into_iter().filter(|(name, _)| !names.contains(name)).collect::<Vec<_>>() {
            names.push(name);
        }
    }
    let fits =
        |format: Format, columns: &BTreeMap<String, String>| files.iter().all(|file| inspect(file, format, columns).is_ok());
    let found = LAYOUTS.iter().find_map(|layout| {
        columns_of(layout, &names).filter(|columns| fits(layout.0, columns)).map(|columns| (layout.0, columns))
    });
    let Some((format, columns)) = found else {
        let listed: Vec<String> = names.iter().take(20).map(|name| format!("`{name}`")).collect();
        let fault = Fault::new(format!("`{path}` has the columns {}, which are of no format that is known", listed.join(", ")));
        let hint = "expected `messages`; `instruction` and `output`; `prompt` and `completion`; or `text`";
        return Err(Failure::new(Exit::Input, fault.hint(hint)));
    };
    Ok(Set { path: path.to_owned(), format, columns, rows })
}

/// The columns that a layout finds, where it finds all that it needs.
fn columns_of((_, layout): &Layout, names: &[String]) -> Option<BTreeMap<String, String>> {
    let mut columns = BTreeMap::new();
    for (ours, is_needed, known) in *layout {
        match known.iter().find(|known| names.iter().any(|name| name == *known)) {
            Some(name) if name != ours => {
                columns.insert((*ours).to_owned(), (*name).to_owned());
            }
            None if *is_needed => return None,
            _ => {}
        }
    }
    Some(columns)
}
