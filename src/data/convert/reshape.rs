//! Conversion of Parquet files with another layout: columns get the names of a format, or become a
//! conversation; all others are copied unchanged.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;
use std::sync::Arc;

use super::chat_of::ChatOf;
use super::converted::{ColumnFound, Converted};
use super::error::ConvertError;
use super::inputs::Input;
use super::job::Job;
use super::layout::{proposal, turns_type};
use super::names::{self, Holds, Proposal};
use super::output;
use super::row::Row;
use super::walk::{Work, joined};
use crate::data::read::error::TableError;
use crate::data::read::parquet;
use crate::data::read::{cells, footer};
use crate::files::{self, Hash, hash_file, open_file};
use crate::report::Reporter;

/// Approximate maximum rows and bytes of a batch.
const BATCH_ROWS: u64 = 2048;
const BATCH_BYTES: u64 = 8 << 20;

/// Converts Parquet files of one schema.
///
/// # Errors
/// A file cannot be read or has another schema; the columns do not fit the format; the disk is
/// full.
pub(super) fn reshape(
    job: &Job,
    stop: &AtomicBool,
    report: Reporter,
) -> Result<Converted, ConvertError> {
    let work = Work::new(job.inputs, 1, stop, report);
    let schema = common_schema(job.inputs)?;
    let found: Vec<(String, Holds)> = schema
        .fields()
        .iter()
        .map(|field| (field.name().clone(), names::holds(field.data_type())))
        .collect();
    let shape = Shape::new(
        &schema,
        proposal(&found, job.naming.format, &job.naming.columns)?,
    )?;
    let hash = hash_of(job.inputs)?;
    let (mut rows, mut unanswered) = (0, 0);
    let metadata = job.metadata(&hash, &[]);
    output::write(
        (job.out, job.is_private),
        &shape.schema,
        metadata,
        |table| {
            for input in job.inputs {
                for batch in batches(&input.path)? {
                    let batch = shape
                        .apply(&batch?)
                        .map_err(|reason| damaged(&input.path, reason))?;
                    rows += batch.num_rows() as u64;
                    table.write(&batch)?;
                    work.tell(&input.name, 0)?;
                }
                work.done_bytes.set(work.done_bytes.get() + input.bytes);
            }
            unanswered = table.first_nulls;
            if rows == 0 {
                return Err(ConvertError::source(
                    &job.inputs[0].path,
                    "has no rows",
                    "give a file with rows",
                ));
            }
            job.unchanged(hash_of(job.inputs)? == hash)
        },
    )?;
    let found = shape.found().into_iter();
    let columns = found.map(|column| column.with_nulls(unanswered)).collect();
    let job = Job {
        license: job.license.clone(),
        ..*job
    };
    job.converted((rows, 0), shape.proposal, columns, hash, Vec::new())
}

fn hash_of(inputs: &[Input]) -> Result<Hash, files::FileError> {
    let hashes = inputs
        .iter()
        .map(|input| Ok((input.name.as_str(), hash_file(&input.path)?)));
    Ok(joined(
        &hashes.collect::<Result<Vec<_>, files::FileError>>()?,
    ))
}

fn damaged(path: &Path, reason: String) -> ConvertError {
    TableError::Damaged {
        path: path.to_owned(),
        reason,
    }
    .into()
}

fn common_schema(inputs: &[Input]) -> Result<SchemaRef, ConvertError> {
    let mut common: Option<SchemaRef> = None;
    for input in inputs {
        let schema = open(&input.path)?.schema().clone();
        let schema: SchemaRef = Arc::new(Schema::new(schema.fields().clone()));
        match &common {
            None => common = Some(schema),
            Some(first) if *first == schema => {}
            Some(_) => {
                let hint = "convert files of different columns one by one";
                return Err(ConvertError::source(
                    &input.path,
                    format!("has other columns than `{}`", inputs[0].path.display()),
                    hint,
                ));
            }
        }
    }
    Ok(common.unwrap_or_else(|| Arc::new(Schema::empty())))
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<std::fs::File>, ConvertError> {
    // Its rows are held against its size.
    parquet::columns(&path.to_owned().into())?;
    let file = open_file(path)?;
    footer::attempt(|| ParquetRecordBatchReaderBuilder::try_new(file))
        .map_err(|reason| damaged(path, reason))
}

/// Reads the rows of a file in batches whose text fits in memory.
fn batches(
    path: &Path,
) -> Result<impl Iterator<Item = Result<RecordBatch, ConvertError>>, ConvertError> {
    let builder = open(path)?;
    let groups = builder.metadata().row_groups();
    let largest = groups
        .iter()
        .map(|group| {
            group.total_byte_size().unsigned_abs() / group.num_rows().unsigned_abs().max(1)
        })
        .max();
    let rows = (BATCH_BYTES / largest.unwrap_or(0).max(1)).clamp(1, BATCH_ROWS);
    let reader = footer::attempt(|| builder.with_batch_size(rows as usize).build());
    let mut reader: ParquetRecordBatchReader = reader.map_err(|reason| damaged(path, reason))?;
    let path = path.to_owned();
    let next = move || files::guarded(|| reader.next()).transpose();
    Ok(std::iter::from_fn(next).map(move |batch| {
        let batch = batch.and_then(|batch| batch.map_err(|error| error.to_string()));
        batch.map_err(|reason| damaged(&path, reason))
    }))
}

/// Conversion of the columns.
struct Shape {
    schema: SchemaRef,
    /// Indexes in the source of the columns that stay.
    kept: Vec<usize>,
    /// Names of the columns in the source.
    sources: Vec<String>,
    chat: Option<ChatOf>,
    turns: SchemaRef,
    proposal: Option<Proposal>,
}

impl Shape {
    fn new(source: &Schema, proposal: Option<Proposal>) -> Result<Self, ConvertError> {
        let chat = proposal.as_ref().and_then(ChatOf::of);
        let names = proposal.as_ref().map(|proposal| &proposal.columns);
        let canonical = |name: &str| {
            names?
                .iter()
                .find(|(_, source)| *source == name)
                .map(|(canonical, _)| canonical.as_str())
        };
        let messages = Field::new("messages", turns_type(), true);
        let (mut fields, mut kept) = (Vec::new(), Vec::new());
        fields.extend(chat.iter().map(|_| Arc::new(messages.clone())));
        for (index, field) in source.fields().iter().enumerate() {
            match canonical(field.name()) {
                Some(_) if chat.is_some() => continue,
                Some(name) => fields.push(Arc::new(field.as_ref().clone().with_name(name))),
                None => fields.push(field.clone()),
            }
            kept.push(index);
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(field) = fields
            .iter()
            .find(|field| !seen.insert(field.name().clone()))
        {
            let message = format!("two columns would be `{}`", field.name());
            return Err(ConvertError::columns(
                message,
                "choose other columns with `--columns`",
            ));
        }
        let sources = source
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let turns = Arc::new(Schema::new(vec![messages]));
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            kept,
            sources,
            chat,
            turns,
            proposal,
        })
    }

    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        let made = self
            .chat
            .as_ref()
            .map(|chat| self.messages(chat, batch))
            .transpose()?;
        let columns = made
            .into_iter()
            .chain(self.kept.iter().map(|index| batch.column(*index).clone()))
            .collect();
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| error.to_string())
    }

    fn messages(&self, chat: &ChatOf, batch: &RecordBatch) -> Result<ArrayRef, String> {
        let text = |name: &String| {
            let column = batch
                .column_by_name(name)
                .ok_or_else(|| format!("it has no column `{name}`"))?;
            cast(column, &DataType::Utf8)
                .map(|texts| (name.clone(), texts))
                .map_err(|error| error.to_string())
        };
        let names = [
            Some(&chat.prompt),
            Some(&chat.completion),
            chat.system.as_ref(),
        ];
        let columns = names
            .into_iter()
            .flatten()
            .map(text)
            .collect::<Result<Vec<_>, String>>()?;
        let row = |row: usize| {
            let cell = |(name, column): &(String, ArrayRef)| {
                let column = column.as_string::<i32>();
                let text = arrow::array::Array::is_valid(column, row).then(|| column.value(row));
                (name.clone(), text.map_or(Value::Null, Value::from))
            };
            let messages = chat.messages(&mut columns.iter().map(cell).collect())?;
            Ok(Row::from_iter([("messages".to_owned(), messages)]))
        };
        let rows = (0..batch.num_rows())
            .map(row)
            .collect::<Result<Vec<_>, String>>()?;
        let made = output::batch(&self.turns, &rows)?.ok_or("it has no rows")?;
        Ok(made.column(0).clone())
    }

    fn found(&self) -> Vec<ColumnFound> {
        let is_read = |name: &String| {
            self.proposal
                .as_ref()
                .is_some_and(|proposal| proposal.columns.contains_key(name))
        };
        let made = usize::from(self.chat.is_some());
        let column = |(index, field): (usize, &Arc<Field>)| ColumnFound {
            name: field.name().clone(),
            source: index
                .checked_sub(made)
                .map_or_else(String::new, |index| self.sources[self.kept[index]].clone()),
            holds: describe(field.data_type()),
            is_json: false,
            is_read: index < made || is_read(field.name()),
            nulls: 0,
            missing: 0,
        };
        self.schema
            .fields()
            .iter()
            .enumerate()
            .map(column)
            .collect()
    }
}

fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        other => cells::describe(other),
    }
}
