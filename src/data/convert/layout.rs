//! Maps the columns of a source to those of the Parquet file: their names, their types, and the
//! kind that each must hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema};
use serde_json::{Map, Value};

use super::chat_of::ChatOf;
use super::error::ConvertError;
use super::json::shown;
use super::names::{self, Proposal};
use super::row::Row;
use super::shape::{Fields, Shape, list_of};
use crate::data::read::cells::ColumnKind;
use crate::files::listed;
use crate::terms::{Format, Term};

/// Options for naming columns.
#[derive(Debug, Clone)]
pub(super) struct Naming {
    /// The format; `None`: it is guessed.
    pub format: Option<Format>,
    /// Given names: map from canonical names to the file's.
    pub columns: BTreeMap<String, String>,
    /// Whether columns keep the file's names, as a recipe reads them.
    pub keeps_names: bool,
}

/// Layout that converts rows to those of the Parquet file.
#[derive(Debug)]
pub(super) struct ColumnLayout {
    pub columns: Vec<Column>,
    /// Columns that become a conversation.
    pub chat: Option<ChatOf>,
    /// The format that the columns fit.
    pub proposal: Option<Proposal>,
}

/// A column of the Parquet file.
#[derive(Debug)]
pub(super) struct Column {
    pub source: String,
    pub name: String,
    /// The kind that a format requires.
    pub kind: Option<ColumnKind>,
    pub data_type: DataType,
    /// Whether its values are kept as their JSON text.
    pub is_json: bool,
    /// Its content in words.
    pub holds: String,
    /// Number of rows in which it is null, and in which it is missing.
    pub nulls: u64,
    pub missing: u64,
}

/// Returns the kind that a format requires of a column.
fn asked_kind(canonical: &str) -> ColumnKind {
    match canonical {
        "messages" => ColumnKind::Turns,
        "tools" | "history" => ColumnKind::List,
        "chat_template_kwargs" => ColumnKind::Object,
        _ => ColumnKind::Text,
    }
}

/// Returns the type of turns with a role and a text.
pub(super) fn turns_type() -> DataType {
    let field = |name| ArrowField::new(name, DataType::Utf8, true);
    list_of(DataType::Struct(
        vec![field("role"), field("content")].into(),
    ))
}

/// Finds the names of a format's columns, from the given names and the existing columns.
///
/// # Errors
/// The columns do not fit the format, or a given name does not exist.
pub(super) fn proposal(
    found: &[(String, names::Holds)],
    format: Option<Format>,
    said: &BTreeMap<String, String>,
) -> Result<Option<Proposal>, ConvertError> {
    let there: Vec<String> = found.iter().map(|(name, _)| format!("`{name}`")).collect();
    let there = listed(&there).join(", ");
    let known = |canonical: &String| {
        Format::WORDS
            .iter()
            .any(|(_, format)| format.columns().contains(&canonical.as_str()))
    };
    if let Some((canonical, name)) = said.iter().find(|(canonical, _)| !known(canonical)) {
        let hint = format!("the format's name comes first, such as `--columns prompt={name}`");
        return Err(ConvertError::columns(
            format!("--columns: no format has a column `{canonical}`"),
            hint,
        ));
    }
    if let Some((canonical, name)) = said
        .iter()
        .find(|(_, name)| !found.iter().any(|(other, _)| other == *name))
    {
        let message = format!(
            "--columns: `{canonical}={name}`, the rows have no `{name}`; they have {there}"
        );
        return Err(ConvertError::columns(message, "name one that they have"));
    }
    match (names::propose(found, format, said), format) {
        (Some(proposal), _) => Ok(Some(proposal)),
        (None, None) if said.is_empty() => Ok(None),
        (None, format) => {
            let (asked, what) = match format {
                Some(format) => (
                    names::asked(format).join(", or "),
                    format!("`--format {format}`"),
                ),
                None => (
                    "the other columns of its format".into(),
                    "`--columns`".into(),
                ),
            };
            let message = format!("{what} needs {asked} of text or turns; the rows have {there}");
            Err(ConvertError::columns(
                message,
                "say which column holds what, such as `--columns \
                prompt=question,completion=answer`",
            ))
        }
    }
}

impl ColumnLayout {
    /// Returns the layout for rows with these columns.
    ///
    /// # Errors
    /// The columns do not fit the requested format.
    pub fn of(fields: &Fields, naming: &Naming) -> Result<Self, ConvertError> {
        if fields.is_crowded {
            let hint = "put what belongs together into one object, such as `{\"meta\": {..}}`";
            return Err(ConvertError::columns(
                "the rows have more than 256 different columns",
                hint,
            ));
        }
        let found: Vec<_> = fields
            .fields
            .iter()
            .map(|field| (field.name.clone(), field.holds()))
            .collect();
        if naming.keeps_names {
            let columns = fields
                .fields
                .iter()
                .map(|field| Column::as_read(field, fields.count, naming))
                .collect();
            return Ok(Self {
                columns,
                chat: None,
                proposal: None,
            });
        }
        let proposal = proposal(&found, naming.format, &naming.columns)?;
        let names = proposal.as_ref().map(|proposal| &proposal.columns);
        let chat = proposal.as_ref().and_then(ChatOf::of);
        let canonical = |name: &str| {
            names?
                .iter()
                .find(|(_, source)| *source == name)
                .map(|(canonical, _)| canonical.clone())
        };
        let mut layout = Self {
            columns: Vec::new(),
            chat,
            proposal: proposal.clone(),
        };
        for field in &fields.fields {
            let column = Column::of(field, fields.count);
            let column = match canonical(&field.name) {
                Some(_) if layout.chat.is_some() => continue,
                Some(name) => Column {
                    kind: Some(asked_kind(&name)),
                    name,
                    ..column
                }
                .settled(),
                None => column,
            };
            layout.columns.push(column);
        }
        if layout.chat.is_some() {
            layout.columns.insert(0, Column::of_chat());
        }
        layout.check_names()?;
        Ok(layout)
    }

    fn check_names(&self) -> Result<(), ConvertError> {
        let is_twice = |column: &&Column| {
            self.columns
                .iter()
                .filter(|other| other.name == column.name)
                .count()
                > 1
        };
        let renamed = |column: &&Column| column.name != column.source;
        match self.columns.iter().filter(is_twice).find(renamed) {
            None => Ok(()),
            Some(column) => {
                let (name, source) = (
                    &column.name,
                    if column.source.is_empty() {
                        "messages"
                    } else {
                        &column.source
                    },
                );
                let message = format!(
                    "`{source}` would be the column `{name}`, and the rows have another `{name}`"
                );
                Err(ConvertError::columns(
                    message,
                    "rename that one in the source, or choose other columns with `--columns`",
                ))
            }
        }
    }

    /// Returns the schema of the Parquet file.
    pub fn schema(&self) -> Arc<Schema> {
        let field = |column: &Column| ArrowField::new(&column.name, column.data_type.clone(), true);
        Arc::new(Schema::new(
            self.columns.iter().map(field).collect::<Vec<_>>(),
        ))
    }

    /// Converts a row to a row of the Parquet file.
    ///
    /// # Errors
    /// A column holds what its format cannot read.
    pub fn apply(&self, mut row: Row) -> Result<Row, String> {
        let mut made = Map::new();
        for column in &self.columns {
            let value = match &self.chat {
                Some(chat) if column.source.is_empty() => chat.messages(&mut row)?,
                _ => row.remove(&column.source).unwrap_or_default(),
            };
            made.insert(column.name.clone(), column.stored(value)?);
        }
        Ok(made)
    }
}

impl Column {
    fn of(field: &super::shape::Field, rows: u64) -> Self {
        let data_type = field.shape.data_type();
        Self {
            source: field.name.clone(),
            name: field.name.clone(),
            kind: None,
            is_json: data_type.is_none(),
            data_type: data_type.unwrap_or(DataType::Utf8),
            holds: field.shape.describe(),
            nulls: field.nulls,
            missing: rows - field.count,
        }
    }

    /// Returns a column under its own name. If the format reads it as text, values of another kind
    /// are invalid, provided that some values are text. Other mismatches are reported for the
    /// recipe that names it.
    fn as_read(field: &super::shape::Field, rows: u64, naming: &Naming) -> Self {
        let name_of = |own: &str| {
            naming
                .columns
                .get(own)
                .map_or_else(|| own.to_owned(), Clone::clone)
        };
        let own = naming.format.and_then(|format| {
            format
                .columns()
                .iter()
                .find(|own| name_of(own) == field.name)
        });
        let kind = own.map(|own| asked_kind(own)).filter(|kind| match kind {
            ColumnKind::Text => {
                field.texts > 0 && matches!(field.shape, Shape::Text | Shape::Mixed)
            }
            ColumnKind::Turns => field.holds() == names::Holds::Turns,
            _ => false,
        });
        Self {
            kind,
            ..Self::of(field, rows)
        }
        .settled()
    }

    fn of_chat() -> Self {
        let kind = Some(ColumnKind::Turns);
        let (source, name, holds) = (
            String::new(),
            "messages".to_owned(),
            "a list of objects".to_owned(),
        );
        Self {
            source,
            name,
            kind,
            data_type: turns_type(),
            is_json: false,
            holds,
            nulls: 0,
            missing: 0,
        }
    }

    /// Sets the type of a text column to text, whatever its values were. Turns that are JSON texts
    /// in some rows stay as they are in each.
    fn settled(self) -> Self {
        match self.kind {
            Some(ColumnKind::Text) => Self {
                data_type: DataType::Utf8,
                is_json: false,
                ..self
            },
            _ => self,
        }
    }

    /// Converts a value to the form in which it is written.
    fn stored(&self, value: Value) -> Result<Value, String> {
        if value.is_null() {
            return Ok(value);
        }
        let wrong = |expected: &str| {
            Err(format!(
                "column `{}` holds {}, expected {expected}",
                self.source,
                shown(&value)
            ))
        };
        match (self.kind, &value) {
            (None, _)
            | (Some(ColumnKind::Text), Value::String(_))
            | (Some(ColumnKind::List), Value::Array(_))
            | (Some(ColumnKind::Object), Value::Object(_)) => {}
            (Some(ColumnKind::Text), _) => return wrong("text"),
            (Some(ColumnKind::Turns), Value::Array(turns)) => {
                if let Some(other) = turns.iter().find(|turn| !turn.is_object()) {
                    return Err(format!(
                        "column `{}` has {} among its turns, expected objects",
                        self.source,
                        shown(other)
                    ));
                }
            }
            (Some(ColumnKind::Object), Value::String(text)) if is_object(text) => return Ok(value),
            // A list as JSON text is read as well, and goes through as it is.
            (Some(ColumnKind::Turns | ColumnKind::List), Value::String(text)) if is_list(text) => {
                return Ok(value);
            }
            (Some(kind), _) => return wrong(kind.describe()),
        }
        Ok(if self.is_json {
            Value::String(value.to_string())
        } else {
            value
        })
    }
}

fn is_list(text: &str) -> bool {
    text.trim().is_empty() || serde_json::from_str::<Vec<serde::de::IgnoredAny>>(text).is_ok()
}

fn is_object(text: &str) -> bool {
    text.trim().is_empty() || serde_json::from_str::<Map<String, Value>>(text).is_ok()
}

/// Whether a column had values of several kinds, for a note.
pub(super) fn is_mixed(column: &Column) -> bool {
    column.is_json && column.kind != Some(ColumnKind::Text)
}

/// Whether no value was seen, as in files without rows.
pub(super) fn is_empty(fields: &Fields) -> bool {
    fields.count == 0
        || fields
            .fields
            .iter()
            .all(|field| field.shape == Shape::Nothing)
}
