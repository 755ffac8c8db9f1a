//! Rows that are scored without labels: texts, words, or answers, as a score head takes them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::classes::unfolded;
use super::encode::Encoder;
use super::error::EncodeError;
use super::format::{self, Example, FormatError};
use super::token_row::{ScoredRow, TokenRow};
use crate::data::read::cells::ColumnKind;
use crate::data::read::columns::{WantedColumn, column_name, wanted};
use crate::data::read::data_file::DataFile;
use crate::data::read::error::TableError;
use crate::data::read::parquet::{Batch, ParquetTable};
use crate::data::visible::visible;
use crate::terms::{Format, TrainOn};

/// What rows are scored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnlabeledForm {
    /// Texts, or pairs of texts.
    Texts,
    /// Words.
    Words,
    /// Conversations, or prompts with completions, as a reward model reads them; or texts.
    Answers,
}

/// A row to be scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Unlabeled {
    /// Its tokens, without labels.
    pub row: ScoredRow,
    /// Whether each word has a token of its own that is scored; empty unless words are scored.
    pub has_token: Vec<bool>,
}

/// Reads the rows of a file in their order; a row that cannot be scored comes as the reason, and
/// `None` where a needed cell is null or empty.
///
/// # Errors
/// The file cannot be read or lacks a column, or `each` fails.
pub fn unlabeled_rows<E: From<TableError>>(
    file: &DataFile,
    form: UnlabeledForm,
    columns: &BTreeMap<String, String>,
    encoder: &Encoder,
    mut each: impl FnMut(Result<Option<Unlabeled>, String>) -> Result<(), E>,
) -> Result<u64, E> {
    let (format, columns) = columns_of(file, form, columns);
    let table = ParquetTable::open(file, &columns)?;
    for group in table.row_groups() {
        for batch in table.read(&group)? {
            let batch = batch?;
            for row in 0..batch.rows() {
                let read = match form {
                    UnlabeledForm::Texts => text(&batch, row, encoder),
                    UnlabeledForm::Words => words(&batch, row, encoder),
                    UnlabeledForm::Answers => answer(format, &batch, row, encoder),
                };
                each(read.map_err(|reason| visible(&reason)))?;
            }
        }
    }
    Ok(table.rows())
}

/// Returns the columns that rows of a form are read from.
fn columns_of(
    file: &DataFile,
    form: UnlabeledForm,
    names: &BTreeMap<String, String>,
) -> (Format, Vec<WantedColumn>) {
    let column = |canonical: &'static str, kind, optional: bool| WantedColumn {
        canonical,
        name: column_name(canonical, names),
        kind,
        optional: optional && !names.contains_key(canonical),
        instead: None,
    };
    match form {
        UnlabeledForm::Texts => (
            Format::Classification,
            vec![
                column("text", ColumnKind::Text, false),
                column("text_pair", ColumnKind::Text, true),
            ],
        ),
        UnlabeledForm::Words => (
            Format::Classification,
            vec![column("tokens", ColumnKind::List, false)],
        ),
        UnlabeledForm::Answers => {
            let fits = |format: &Format| {
                let columns = wanted(*format, names);
                ParquetTable::open(file, &columns).is_ok()
            };
            let formats = [Format::Chat, Format::Completion, Format::Text];
            let format = formats.into_iter().find(fits).unwrap_or(Format::Completion);
            (format, wanted(format, names))
        }
    }
}

type Read = Result<Option<Unlabeled>, String>;

fn told(error: &EncodeError) -> String {
    error.reason()
}

fn cell(batch: &Batch, column: &str, row: usize) -> Result<Value, String> {
    batch.cell(column, row).map_err(|error| error.to_string())
}

fn whole(ids: Vec<u32>) -> Unlabeled {
    let row = TokenRow {
        trained: vec![true; ids.len()],
        ids,
    };
    Unlabeled {
        row: ScoredRow::Text(row, Vec::new()),
        has_token: Vec::new(),
    }
}

fn text(batch: &Batch, row: usize, encoder: &Encoder) -> Read {
    let (text, pair) = (cell(batch, "text", row)?, cell(batch, "text_pair", row)?);
    let Some(text) = text.as_str().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let ids = encoder.scored_ids(text, pair.as_str());
    let ids = ids.map_err(|error| told(&error))?;
    Ok((!ids.is_empty()).then(|| whole(ids)))
}

fn words(batch: &Batch, row: usize, encoder: &Encoder) -> Read {
    let words = match unfolded(cell(batch, "tokens", row)?) {
        Value::Null => return Ok(None),
        Value::Array(items) if items.is_empty() => return Ok(None),
        Value::Array(items) => items,
        found => return Err(format!("the words are {found}, expected a list")),
    };
    let word = |found: &Value| {
        let word = found.as_str().map(str::trim).unwrap_or_default();
        if word.is_empty() {
            Err(format!(
                "one of its words is {found}, expected text that is more than spaces"
            ))
        } else {
            Ok(word.to_owned())
        }
    };
    let words = words.iter().map(word).collect::<Result<Vec<_>, _>>()?;
    let (mut tokens, first_tokens) = encoder.words(&words).map_err(|error| told(&error))?;
    for token in first_tokens.iter().flatten() {
        tokens.trained[*token] = true;
    }
    Ok(Some(Unlabeled {
        row: ScoredRow::Tokens(tokens, Vec::new()),
        has_token: first_tokens.iter().map(Option::is_some).collect(),
    }))
}

fn answer(format: Format, batch: &Batch, row: usize, encoder: &Encoder) -> Read {
    let read = match format::read(format, &BTreeMap::new(), None, batch, row) {
        Ok(Some(read)) => read,
        Ok(None) => return Ok(None),
        Err(FormatError::Cell(error)) => return Err(error.to_string()),
        Err(FormatError::Content { cause, .. }) => return Err(cause.to_string()),
    };
    let example = match read.example {
        Example::Text(completion) => Example::Completion {
            prompt: String::new(),
            completion,
        },
        other => other,
    };
    let rated = Example::Rated(Box::new(example), true);
    let tokens = encoder.encode_row(&rated, TrainOn::All);
    let tokens = tokens.map_err(|error| told(&error))?;
    Ok(Some(whole(tokens.row.ids)))
}
