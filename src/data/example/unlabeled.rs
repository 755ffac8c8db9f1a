//! Rows that are scored without labels: texts, words, or answers, as a score head takes them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::classes::unfolded;
use super::cut::{self, Kept};
use super::encode::Encoder;
use super::error::EncodeError;
use super::format::{self, Example, FormatError};
use super::token_row::{ScoredRow, TokenRow};
use crate::data::read::cells::ColumnKind;
use crate::data::read::columns::{WantedColumn, column_name, wanted};
use crate::data::read::data_file::DataFile;
use crate::data::read::error::TableError;
use crate::data::read::parquet::{Batch, ParquetTable};
use crate::data::tokenizer::tokenize::Framed;
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

/// Reads the rows of a file in their order, each cut to `limit` tokens; a row that cannot be scored
/// comes as the reason, and `None` where a needed cell is null or empty.
///
/// # Errors
/// The file cannot be read or lacks a column, or `each` fails.
pub fn unlabeled_rows<E: From<TableError>>(
    file: &DataFile,
    form: UnlabeledForm,
    columns: &BTreeMap<String, String>,
    (encoder, limit): (&Encoder, usize),
    mut each: impl FnMut(Result<Option<Unlabeled>, String>) -> Result<(), E>,
) -> Result<u64, E> {
    let (format, columns) = columns_of(file, form, columns);
    let table = ParquetTable::open(file, &columns)?;
    for group in table.row_groups() {
        for batch in table.read(&group)? {
            let batch = batch?;
            for row in 0..batch.rows() {
                let read = match form {
                    UnlabeledForm::Texts => text(&batch, row, encoder, limit),
                    UnlabeledForm::Words => words(&batch, row, encoder, limit),
                    UnlabeledForm::Answers => answer(format, &batch, row, encoder, limit),
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

/// Returns the row of the kept tokens of a text, or of two.
fn whole(ids: &[u32], second: usize, kept: Kept) -> Unlabeled {
    let places: Vec<usize> = kept.into_iter().flatten().collect();
    let row = TokenRow {
        trained: vec![true; places.len()],
        ids: places.iter().map(|place| ids[*place]).collect(),
    };
    Unlabeled {
        row: ScoredRow::Text {
            row,
            second: places.iter().filter(|place| **place < second).count(),
            values: Vec::new(),
        },
        has_token: Vec::new(),
    }
}

fn text(batch: &Batch, row: usize, encoder: &Encoder, limit: usize) -> Read {
    let (text, pair) = (cell(batch, "text", row)?, cell(batch, "text_pair", row)?);
    let Some(text) = text.as_str().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let framed = encoder.scored(text, pair.as_str());
    let Framed {
        ids,
        second,
        is_own,
        closing,
    } = framed.map_err(|error| told(&error))?;
    let kept = match pair.as_str() {
        Some(_) => cut::of_pair(|place| is_own[place], ids.len(), second, limit),
        None => cut::of_text(ids.len(), closing, limit),
    };
    Ok((!ids.is_empty()).then(|| whole(&ids, second, kept)))
}

fn words(batch: &Batch, row: usize, encoder: &Encoder, limit: usize) -> Read {
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
    let words = encoder.words(&words).map_err(|error| told(&error))?;
    let (mut tokens, first_tokens, closing) = words;
    for token in first_tokens.iter().flatten() {
        tokens.trained[*token] = true;
    }
    let kept = cut::of_text(tokens.ids.len(), closing, limit);
    let (ids, trained) = kept
        .into_iter()
        .flatten()
        .map(|place| (tokens.ids[place], tokens.trained[place]))
        .unzip();
    Ok(Some(Unlabeled {
        row: ScoredRow::Tokens(TokenRow { ids, trained }, Vec::new()),
        has_token: first_tokens.iter().map(Option::is_some).collect(),
    }))
}

fn answer(format: Format, batch: &Batch, row: usize, encoder: &Encoder, limit: usize) -> Read {
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
    let (ids, closing) = (tokens.row.ids, tokens.closing as usize);
    let kept = cut::of_text(ids.len(), closing, limit);
    Ok(Some(whole(&ids, ids.len(), kept)))
}
