//! A conversion in two passes: the first finds the columns and their types, the second writes.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::converted::{ColumnFound, Converted};
use super::error::ConvertError;
use super::inputs::Input;
use super::layout::{self, Column, ColumnLayout, Naming};
use super::names::Proposal;
use super::output::{self, ParquetOutput};
use super::piece::{self, Record, RecordBlock, in_parallel};
use super::row::{Row, Wrong};
use super::shape::Fields;
use super::walk::{Dropped, Work};
use crate::data::read::cells::MAX_TEXT_BYTES;
use crate::data::read::license;
use crate::fault::quoted;
use crate::files::{self, Hash, listed};
use crate::report::Reporter;

fn internal(out: &Path, said: String) -> ConvertError {
    // What went wrong may hold the row that it was about.
    files::FileError::new(
        "write",
        out,
        std::io::Error::other(format!("internal error: {}", quoted(said))),
    )
    .into()
}

/// A conversion whose inputs are known.
pub(super) struct Job<'a> {
    pub inputs: &'a [Input],
    pub out: &'a Path,
    pub naming: &'a Naming,
    pub max_dropped: u64,
    pub license: Option<String>,
    /// Whether only this user may read the Parquet file.
    pub is_private: bool,
}

/// Findings of the first pass.
struct Survey {
    fields: Fields,
    hash: Hash,
    notes: Vec<String>,
}

impl Job<'_> {
    /// Runs [`Job::run`] and returns a panic as an error.
    pub fn run_guarded(
        self,
        stop: &AtomicBool,
        report: Reporter,
    ) -> Result<Converted, ConvertError> {
        let out = self.out;
        files::guarded(|| self.run(stop, report)).map_err(|said| internal(out, said))?
    }

    pub fn run(self, stop: &AtomicBool, report: Reporter) -> Result<Converted, ConvertError> {
        let work = Work::new(self.inputs, 2, stop, report);
        let mut dropped = Dropped::new(self.max_dropped);
        let survey = survey(&work, &mut dropped)?;
        dropped.check()?;
        if layout::is_empty(&survey.fields) {
            let reason = match survey.fields.count {
                0 => "has no rows".to_owned(),
                count => format!(
                    "has nothing but nulls in {}",
                    piece::counted(count as usize, "row")
                ),
            };
            return Err(ConvertError::source(
                &self.inputs[0].path,
                reason,
                "give a file with rows",
            ));
        }
        let layout = ColumnLayout::of(&survey.fields, self.naming)?;
        let (mut rows, mut unanswered, schema) = (0, 0, layout.schema());
        let metadata = self.metadata(&survey.hash, &layout.columns);
        // The second pass meets the same broken rows again.
        let mut dropped = Dropped::new(self.max_dropped);
        output::write((self.out, self.is_private), &schema, metadata, |table| {
            let (hash, _) = work.pass(|input, header, piece| {
                rows += write_piece(
                    &piece,
                    header,
                    (input, &layout, &schema),
                    table,
                    &mut dropped,
                )?;
                Ok(())
            })?;
            dropped.check()?;
            unanswered = table.first_nulls;
            if rows == 0 {
                return Err(ConvertError::source(
                    &self.inputs[0].path,
                    "has no row that can be converted",
                    "correct its rows",
                ));
            }
            self.unchanged(hash == survey.hash)
        })?;
        let mut notes = survey.notes;
        notes.extend(told_dropped(&dropped));
        notes.extend(
            layout
                .columns
                .iter()
                .filter(|column| layout::is_mixed(column))
                .map(mixed_note),
        );
        let columns = layout
            .columns
            .iter()
            .map(|column| column.found(&layout))
            .map(|column| column.with_nulls(unanswered))
            .collect();
        self.converted(
            (rows, dropped.count),
            layout.proposal,
            columns,
            survey.hash,
            notes,
        )
    }

    pub fn unchanged(&self, is_same: bool) -> Result<(), ConvertError> {
        if is_same {
            return Ok(());
        }
        Err(ConvertError::source(
            &self.inputs[0].path,
            "or a file next to it was changed during the conversion",
            "convert it again",
        ))
    }

    pub fn metadata(&self, hash: &Hash, columns: &[Column]) -> Vec<(&'static str, String)> {
        let json: Vec<&str> = columns
            .iter()
            .filter(|column| column.is_json)
            .map(|column| column.name.as_str())
            .collect();
        let license = self
            .license
            .iter()
            .map(|license| ("license", license.clone()));
        let json = (!json.is_empty()).then(|| ("json_columns", Value::from(json).to_string()));
        [("source_blake3", hash.to_string())]
            .into_iter()
            .chain(license)
            .chain(json)
            .collect()
    }

    pub fn converted(
        self,
        (rows, dropped): (u64, u64),
        proposal: Option<Proposal>,
        columns: Vec<ColumnFound>,
        source_hash: Hash,
        notes: Vec<String>,
    ) -> Result<Converted, ConvertError> {
        let bytes = self
            .out
            .metadata()
            .map_err(|cause| files::FileError::new("read", self.out, cause))?
            .len();
        let source_bytes = self.inputs.iter().map(|input| input.bytes).sum();
        Ok(Converted {
            rows,
            dropped,
            proposal,
            columns,
            source_hash,
            license: self.license,
            source_bytes,
            bytes,
            notes,
        })
    }
}

/// Runs the first pass, which finds columns, their shapes, and invalid rows.
fn survey(work: &Work, dropped: &mut Dropped) -> Result<Survey, ConvertError> {
    let mut fields = Fields::default();
    let mut long = Vec::new();
    let (hash, mut notes) = work.pass(|input, header, piece| {
        let seen = in_parallel(&piece.units(), |unit| {
            let (mut fields, mut long, mut wrong) = (Fields::default(), Vec::new(), Vec::new());
            for record in *unit {
                match piece.row(record, header) {
                    Ok(row) => {
                        // Most records are shorter than such a text.
                        let is_long = record.len() > MAX_TEXT_BYTES && row.values().any(is_long);
                        long.extend(is_long.then_some(record.line));
                        fields.add(&row);
                    }
                    Err(reason) => wrong.push(reason),
                }
            }
            (fields, long, wrong)
        });
        for (of_unit, lines, wrong) in seen {
            fields.merge(of_unit);
            long.extend(
                lines
                    .iter()
                    .map(|line| format!("`{}:{line}`", input.path.display())),
            );
            for wrong in wrong {
                dropped.push(&input.path, wrong);
            }
        }
        Ok(())
    })?;
    notes.extend(long.first().map(|first| {
        format!(
            "{} with a text of more than {MAX_TEXT_BYTES} bytes, the first at {first}: training \
            leaves such a row out as broken",
            piece::counted(long.len(), "row")
        )
    }));
    Ok(Survey {
        fields,
        hash,
        notes,
    })
}

/// Whether a value holds a text that training does not read.
fn is_long(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() > MAX_TEXT_BYTES,
        Value::Array(items) => items.iter().any(is_long),
        Value::Object(entries) => entries.values().any(is_long),
        _ => false,
    }
}

/// Writes the rows of a piece, and counts them.
fn write_piece(
    piece: &RecordBlock,
    header: &[String],
    (input, layout, schema): (&Input, &ColumnLayout, &arrow::datatypes::SchemaRef),
    table: &mut ParquetOutput,
    dropped: &mut Dropped,
) -> Result<u64, ConvertError> {
    let row = |record: &Record| -> Result<Row, Wrong> {
        let row = piece.row(record, header)?;
        layout.apply(row).map_err(|reason| Wrong {
            line: record.line,
            column: None,
            reason,
        })
    };
    let made = in_parallel(&piece.units(), |unit| {
        let (mut rows, mut wrong) = (Vec::new(), Vec::new());
        for record in *unit {
            match row(record) {
                Ok(row) => rows.push(row),
                Err(reason) => wrong.push(reason),
            }
        }
        (output::batch(schema, &rows), wrong)
    });
    let mut count = 0;
    for (batch, wrong) in made {
        for wrong in wrong {
            dropped.push(&input.path, wrong);
        }
        let batch = batch.map_err(|said| internal(&input.path, said))?;
        if let Some(batch) = batch.filter(|batch| batch.num_rows() > 0) {
            count += batch.num_rows() as u64;
            table.write(&batch)?;
        }
    }
    Ok(count)
}

/// Returns notes on the rows that were left out, the first ones by name.
fn told_dropped(dropped: &Dropped) -> Vec<String> {
    let rest = dropped.count.saturating_sub(dropped.faults.len() as u64);
    let more = (rest > 0).then(|| format!("left out: {rest} more rows"));
    dropped
        .faults
        .iter()
        .map(|fault| format!("left out: {fault}"))
        .chain(more)
        .collect()
}

fn mixed_note(column: &Column) -> String {
    format!(
        "column `{}` is kept as JSON text, because no type of Parquet would keep all of its \
        values as they are",
        column.name
    )
}

impl Column {
    fn found(&self, layout: &ColumnLayout) -> ColumnFound {
        ColumnFound {
            name: self.name.clone(),
            source: self.source.clone(),
            holds: self.holds.clone(),
            is_json: self.is_json,
            is_read: layout.proposal.is_some() && self.kind.is_some(),
            nulls: self.nulls,
            missing: self.missing,
        }
    }
}

/// Returns the licenses that are stated in the inputs or lie beside them.
pub(super) fn license_of(inputs: &[Input]) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    for input in inputs.iter().take(1000) {
        let stated = license::terms(&input.path, &input.top)
            .license
            .map(|license| license.id);
        found.extend(stated.filter(|id| !found.contains(id)));
    }
    (!found.is_empty()).then(|| listed(&found).join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::inputs;
    use super::*;
    use crate::data::read::{cells, footer};

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1000_i32..1000).prop_map(|number| json!(f64::from(number) / 8.0)),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c]", inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    /// Generates rows whose columns are mostly of one shape, like real rows.
    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let number = (-5_i64..5).prop_map(Value::from);
        let turns = prop::collection::vec(("[ab]{0,3}", "[cd]{0,3}"), 0..3);
        let turns = turns.prop_map(|turns| {
            turns
                .into_iter()
                .map(|(role, content)| json!({"role": role, "content": content}))
                .collect()
        });
        let cell = |plain: BoxedStrategy<Value>| {
            prop_oneof![
                8 => plain.prop_map(Some),
                1 => value().prop_map(Some),
                1 => Just(None),
            ]
        };
        let row = (
            cell(".{0,5}".prop_map(Value::from).boxed()),
            cell(number.boxed()),
            cell(turns.boxed()),
            cell(value().boxed()),
        );
        let row = row.prop_map(|(text, number, turns, any)| {
            let cells = [("t", text), ("n", number), ("m", turns), ("x", any)];
            // Rows with a pair of answers are of no format, so that every column keeps its name.
            let pair = ["chosen", "rejected"].map(|name| (name, Some(Value::from("x"))));
            cells
                .into_iter()
                .chain(pair)
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect()
        });
        prop::collection::vec(row, 1..30)
    }

    fn read_back(path: &Path) -> Vec<Row> {
        let metadata = footer::read(&std::fs::File::open(path).expect("opened")).expect("a footer");
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(
            std::fs::File::open(path).expect("opened"),
            metadata,
        );
        let mut rows = Vec::new();
        for batch in reader
            .build()
            .expect("a reader")
            .map(|batch| batch.expect("a batch"))
        {
            let (schema, columns) = (batch.schema(), batch.columns());
            let cell = |row| {
                schema
                    .fields()
                    .iter()
                    .zip(columns)
                    .map(move |(field, column)| {
                        (
                            field.name().clone(),
                            cells::cell(column, row).expect("a cell"),
                        )
                    })
            };
            rows.extend((0..batch.num_rows()).map(|row| cell(row).collect::<Row>()));
        }
        rows
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_were(rows in rows()) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let [source, out] = ["a.jsonl", "a.parquet"].map(|name| folder.path().join(name));
            let line = |row: &Row| format!("{}\n", Value::Object(row.clone()));
            let lines: String = rows.iter().map(line).collect();
            std::fs::write(&source, lines).expect("written");
            let inputs = inputs::find(&[source], &mut Vec::new()).expect("found");
            let naming = Naming { format: None, columns: BTreeMap::new(), keeps_names: false };
            let job = Job {
                inputs: &inputs,
                out: &out,
                naming: &naming,
                max_dropped: 0,
                license: None,
                is_private: false,
            };
            let converted = job.run(&AtomicBool::new(false), &|_| {}).expect("converted");
            prop_assert_eq!(converted.rows, rows.len() as u64);
            let is_json = |name: &str| {
                converted.columns.iter().any(|column| column.name == name && column.is_json)
            };
            for (row, found) in rows.iter().zip(read_back(&out)) {
                for (name, found) in found {
                    let expected = row.get(&name).cloned().unwrap_or_default();
                    match (&found, &expected) {
                        (Value::String(text), _) if is_json(&name) => {
                            prop_assert_eq!(text, &expected.to_string());
                        }
                        // A column of whole and other numbers is one of floats.
                        (Value::Number(found), Value::Number(expected)) => {
                            prop_assert_eq!(found.as_f64(), expected.as_f64());
                        }
                        _ => prop_assert_eq!(
                            found.to_string(),
                            expected.to_string(),
                            "keys keep their order"
                        ),
                    }
                }
            }
        }
    }
}
