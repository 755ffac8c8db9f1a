//! Guesses which columns of a file a format would read where their names differ from the format's:
//! by common names and by content.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::cells::ColumnKind;
use super::columns::{WantedColumn, wanted};
use super::names::common_names;
use crate::fault::{nearest, yaml_word};
use crate::terms::{Format, Term};

/// A column of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Kinds that its content is likely meant as.
    pub kinds: Vec<ColumnKind>,
    /// Its size in the file, in bytes.
    pub bytes: i64,
}

impl Candidate {
    /// Whether it may hold content of a kind.
    fn holds(&self, kind: ColumnKind) -> bool {
        let is_among = |kind| self.kinds.contains(&kind);
        is_among(kind)
            || kind == ColumnKind::Any
            || kind == ColumnKind::TextOrTurns
                && (is_among(ColumnKind::Text) || is_among(ColumnKind::Turns))
            || kind == ColumnKind::TextOrTexts && is_among(ColumnKind::Text)
    }
}

/// The user's likely intent where a column is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// A column whose name is nearly the one that was given.
    Near(String),
    /// Names for the format's columns: the canonical name and the file's.
    Columns(Vec<(&'static str, String)>),
    /// Another format, whose columns are there.
    Format(Format, Vec<(&'static str, String)>),
    /// Nothing that can be guessed; the format's columns, each with the file's name if it is known.
    Unknown(Vec<(&'static str, Option<String>)>),
}

impl Meant {
    /// Guesses the column meant by `missing`, one of `wanted`, of which some are in the file.
    pub fn find(missing: &WantedColumn, wanted: &[WantedColumn], columns: &[Candidate]) -> Self {
        let is_there = |name: &str| columns.iter().any(|column| column.name == name);
        let taken: Vec<&str> = wanted
            .iter()
            .map(|of| of.name.as_str())
            .filter(|name| is_there(name))
            .collect();
        let free: Vec<&Candidate> = columns
            .iter()
            .filter(|column| !taken.contains(&column.name.as_str()))
            .collect();
        if missing.name != missing.canonical
            && let Some(name) = near(missing, &free)
        {
            return Self::Near(name);
        }
        let known: Vec<(&'static str, Option<String>)> = names_of(wanted, &free, &is_there);
        if known.iter().all(|(_, name)| name.is_some()) {
            return Self::Columns(
                known
                    .into_iter()
                    .filter_map(|(canonical, name)| Some((canonical, name?)))
                    .collect(),
            );
        }
        // Whoever names columns has chosen the format with care.
        let is_plain = wanted.iter().all(|of| of.name == of.canonical);
        match detected(columns).filter(|(format, _)| is_plain && !reads(*format, missing.canonical))
        {
            Some((format, names)) => Self::Format(format, names),
            None => Self::Unknown(known),
        }
    }

    /// Returns the next step in a recipe.
    pub fn hint(&self) -> String {
        match self {
            Self::Near(name) => format!("did you mean `{name}`?"),
            Self::Columns(names) => format!(
                "say which column holds it, such as `columns: {}`",
                in_recipe(names)
            ),
            Self::Format(format, names) if names.is_empty() => {
                format!("its columns are those of `format: {format}`")
            }
            Self::Format(format, names) => {
                format!(
                    "its columns look like those of `format: {format}` with `columns: {}`",
                    in_recipe(names)
                )
            }
            Self::Unknown(known) => {
                let shown = known.iter().map(|(canonical, name)| {
                    format!("{canonical}: {}", name.as_deref().unwrap_or(".."))
                });
                format!(
                    "say which column holds it, in `columns: {{{}}}`",
                    shown.collect::<Vec<_>>().join(", ")
                )
            }
        }
    }

    /// Returns the next step on the command line, with options `--columns` and `--format`;
    /// `canonical` is the missing column's canonical name.
    pub fn option_hint(&self, canonical: &str) -> String {
        match self {
            Self::Near(name) => {
                format!("did you mean `{name}`? Write `--columns {canonical}={name}`")
            }
            Self::Columns(names) => format!(
                "say which column holds it, such as `--columns {}`",
                in_option(names)
            ),
            Self::Format(format, names) if names.is_empty() => {
                format!("its columns are those of `--format {format}`")
            }
            Self::Format(format, names) => {
                format!(
                    "its columns look like those of `--format {format} --columns {}`",
                    in_option(names)
                )
            }
            Self::Unknown(known) => {
                let shown = known.iter().map(|(canonical, name)| {
                    format!("{canonical}={}", name.as_deref().unwrap_or("COLUMN"))
                });
                format!(
                    "say which column holds it, with `--columns {}`",
                    shown.collect::<Vec<_>>().join(",")
                )
            }
        }
    }
}

fn reads(format: Format, canonical: &str) -> bool {
    wanted(format, &BTreeMap::new())
        .iter()
        .any(|of| of.canonical == canonical)
}

/// Formats names as a recipe does: `{prompt: question, completion: answer}`.
pub fn in_recipe<K: Display, N: AsRef<str>>(names: &[(K, N)]) -> String {
    let pairs: Vec<String> = names
        .iter()
        .map(|(canonical, name)| format!("{canonical}: {}", yaml_word(name.as_ref())))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

fn in_option(names: &[(&'static str, String)]) -> String {
    let pairs: Vec<String> = names
        .iter()
        .map(|(canonical, name)| format!("{canonical}={name}"))
        .collect();
    crate::fault::shell_word(&pairs.join(","))
}

/// Returns the column whose name is nearly that of `missing`, among those that no other column of
/// the format uses.
fn near(missing: &WantedColumn, free: &[&Candidate]) -> Option<String> {
    let usable: Vec<&str> = free
        .iter()
        .filter(|column| column.holds(missing.kind))
        .map(|column| column.name.as_str())
        .collect();
    if let Some(name) = nearest(&missing.name, usable.iter().copied()) {
        return Some(name.to_owned());
    }
    let typed = missing.name.to_lowercase();
    let is_part = |name: &&&str| {
        let parts: Vec<String> = name
            .to_lowercase()
            .split(['_', '-', ' ', '.'])
            .map(str::to_owned)
            .collect();
        parts.len() > 1 && parts.contains(&typed)
    };
    let parts: Vec<&&str> = usable.iter().filter(is_part).collect();
    if let [name] = parts[..] {
        Some((*name).to_owned())
    } else {
        None
    }
}

/// Returns a name for each column that the format needs, in the format's order: the name from the
/// recipe if the file has it, otherwise the likeliest free column. Optional columns are included
/// only if the file has them under another name.
fn names_of(
    wanted: &[WantedColumn],
    free: &[&Candidate],
    is_there: &dyn Fn(&str) -> bool,
) -> Vec<(&'static str, Option<String>)> {
    let (mut used, mut names): (Vec<String>, Vec<_>) = (Vec::new(), Vec::new());
    for of in wanted {
        let said = Some(of.name.clone()).filter(|name| is_there(name));
        let name = said.or_else(|| {
            let rest: Vec<&&Candidate> = free
                .iter()
                .filter(|column| !used.contains(&column.name))
                .collect();
            let by_name = by_name(of.canonical, of.kind, &rest);
            // A text alone in its format is what fills most of the file; conversations are the only
            // column of their kind.
            by_name.or_else(|| {
                (["text", "messages"].contains(&of.canonical)).then(|| largest(of.kind, &rest))?
            })
        });
        if of.optional && name.as_deref().is_none_or(|name| name == of.canonical) {
            continue;
        }
        used.extend(name.clone());
        names.push((of.canonical, name));
    }
    names
}

fn by_name(canonical: &str, kind: ColumnKind, free: &[&&Candidate]) -> Option<String> {
    let called = |name: &'static str| {
        free.iter()
            .find(|column| column.name.eq_ignore_ascii_case(name) && column.holds(kind))
    };
    common_names(canonical)
        .find_map(called)
        .map(|column| column.name.clone())
}

fn largest(kind: ColumnKind, free: &[&&Candidate]) -> Option<String> {
    free.iter()
        .filter(|column| column.holds(kind))
        .max_by_key(|column| column.bytes)
        .map(|column| column.name.clone())
}

/// Detects the format whose columns a file has, under any name, and returns it with the names that
/// are not the format's own.
pub fn detected(columns: &[Candidate]) -> Option<(Format, Vec<(&'static str, String)>)> {
    let free: Vec<&Candidate> = columns.iter().collect();
    let by_format = |format: Format| {
        let wanted = wanted(format, &BTreeMap::new());
        let rest: Vec<&&Candidate> = free.iter().collect();
        let mut names: Vec<(&'static str, String)> = Vec::new();
        let is_there = |names: &[(&'static str, String)], canonical: Option<&str>| {
            names.iter().any(|(own, _)| Some(*own) == canonical)
        };
        for of in wanted {
            let left: Vec<&&Candidate> = rest
                .iter()
                .filter(|column| names.iter().all(|(_, name)| *name != column.name))
                .copied()
                .collect();
            // A column of the format's own name is that column.
            let own = left
                .iter()
                .find(|column| column.name == of.canonical && column.holds(of.kind));
            let name = own
                .map(|column| column.name.clone())
                .or_else(|| by_name(of.canonical, of.kind, &left));
            match name.or_else(|| (of.canonical == "messages").then(|| largest(of.kind, &left))?) {
                Some(name) => names.push((of.canonical, name)),
                None if of.optional || is_there(&names, of.instead) => {}
                None => return None,
            }
        }
        Some(names)
    };
    let is_own = |format: &Format| {
        by_format(*format).is_some_and(|names| names.iter().all(|(own, name)| own == name))
    };
    // Rows of preferences, of classes and of retrieval have columns of other formats too.
    let first = [
        Format::Preference,
        Format::Unpaired,
        Format::Retrieval,
        Format::Classification,
    ];
    let formats = || {
        let all = Format::WORDS.iter().map(|(_, format)| *format);
        first.into_iter().chain(all)
    };
    let others = [
        Format::Preference,
        Format::Retrieval,
        Format::Chat,
        Format::Instruction,
        Format::Completion,
        Format::Classification,
        Format::Text,
    ];
    // `instruction` is a word that no other format has; a question with an answer is a completion.
    let fits = |format: &Format| {
        by_format(*format).is_some_and(|names| {
            *format != Format::Instruction
                || names
                    .iter()
                    .any(|(own, name)| *own == "instruction" && name.starts_with(own))
        })
    };
    let format = formats()
        .find(is_own)
        .or_else(|| others.into_iter().find(fits))
        .or_else(|| only_text(columns))?;
    let names = by_format(format).unwrap_or_else(|| {
        columns
            .iter()
            .filter(|column| is_text(column))
            .map(|column| ("text", column.name.clone()))
            .collect()
    });
    Some((
        format,
        names
            .into_iter()
            .filter(|(own, name)| own != name)
            .collect(),
    ))
}

fn is_text(column: &Candidate) -> bool {
    column.holds(ColumnKind::Text)
}

/// Detects the text format where the file has a single column of text, whatever its name.
fn only_text(columns: &[Candidate]) -> Option<Format> {
    (columns.iter().filter(|column| is_text(column)).count() == 1).then_some(Format::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[(&str, ColumnKind)]) -> Vec<Candidate> {
        let column = |(index, (name, kind)): (usize, &(&str, ColumnKind))| Candidate {
            name: (*name).to_owned(),
            kinds: vec![*kind],
            bytes: i64::try_from(index).expect("few columns"),
        };
        names.iter().enumerate().map(column).collect()
    }

    fn texts(names: &[&str]) -> Vec<Candidate> {
        columns(
            &names
                .iter()
                .map(|name| (*name, ColumnKind::Text))
                .collect::<Vec<_>>(),
        )
    }

    /// Returns the hint for the first column of a format that is missing.
    fn hint(format: Format, said: &[(&str, &str)], there: &[Candidate]) -> String {
        let names = said
            .iter()
            .map(|(own, name)| ((*own).to_owned(), (*name).to_owned()))
            .collect();
        let wanted = wanted(format, &names);
        let missing = wanted
            .iter()
            .find(|of| !of.optional && there.iter().all(|column| column.name != of.name));
        Meant::find(missing.expect("one is missing"), &wanted, there).hint()
    }

    #[test]
    fn the_column_that_was_meant_is_named() {
        let glossary = texts(&["term", "field", "definition"]);
        let of = |said: &[(&str, &str)]| hint(Format::Instruction, said, &glossary);
        assert_eq!(
            of(&[("instruction", "terms"), ("output", "definition")]),
            "did you mean `term`?"
        );
        assert_eq!(
            of(&[("instruction", "Term"), ("output", "definition")]),
            "did you mean `term`?"
        );
        assert_eq!(
            of(&[("instruction", "term"), ("output", "definitions")]),
            "did you mean `definition`?"
        );
        let unknown = "say which column holds it, in `columns: \
            {instruction: .., output: definition}`";
        assert_eq!(
            of(&[("instruction", "wort"), ("output", "definition")]),
            unknown
        );
        // One that is used already is not meant again.
        let unknown = "say which column holds it, in `columns: {instruction: .., output: term}`";
        assert_eq!(of(&[("instruction", "terms"), ("output", "term")]), unknown);
        let asked = texts(&["question", "answer", "section"]);
        let said = "say which column holds it, such as `columns: \
            {prompt: question, completion: answer}`";
        assert_eq!(hint(Format::Completion, &[], &asked), said);
        assert_eq!(
            hint(Format::Completion, &[("completion", "answer")], &asked),
            said
        );
        let said = "say which column holds it, such as `columns: \
            {instruction: question, output: answer}`";
        assert_eq!(hint(Format::Instruction, &[], &asked), said);
        assert_eq!(
            hint(Format::Chat, &[], &asked),
            "its columns look like those of `format: completion` with `columns: \
            {prompt: question, completion: answer}`"
        );
        assert_eq!(
            hint(Format::Text, &[], &texts(&["a b: c"])),
            "say which column holds it, such as `columns: {text: \"a b: c\"}`"
        );
    }

    #[test]
    fn a_format_is_known_by_what_columns_hold() {
        let found = |names: &[(&str, ColumnKind)]| {
            detected(&columns(names)).map(|(format, names)| (format, in_recipe(&names)))
        };
        let text = |names: &[&str]| {
            found(
                &names
                    .iter()
                    .map(|name| (*name, ColumnKind::Text))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            found(&[
                ("id", ColumnKind::List),
                ("conversations", ColumnKind::Turns)
            ]),
            Some((Format::Chat, "{messages: conversations}".into()))
        );
        assert_eq!(
            found(&[("x", ColumnKind::Turns)]),
            Some((Format::Chat, "{messages: x}".into()))
        );
        assert_eq!(
            text(&["question", "answer"]),
            Some((
                Format::Completion,
                "{prompt: question, completion: answer}".into()
            ))
        );
        assert_eq!(
            text(&["prompt", "completion"]),
            Some((Format::Completion, "{}".into()))
        );
        assert_eq!(
            text(&["instruction", "input", "output"]),
            Some((Format::Instruction, "{}".into()))
        );
        assert_eq!(
            text(&["instruction", "context", "response"]),
            Some((
                Format::Instruction,
                "{input: context, output: response}".into()
            ))
        );
        assert_eq!(text(&["body"]), Some((Format::Text, "{text: body}".into())));
        assert_eq!(
            text(&["remark"]),
            Some((Format::Text, "{text: remark}".into()))
        );
        assert_eq!(text(&["term", "definition"]), None);
    }
}
