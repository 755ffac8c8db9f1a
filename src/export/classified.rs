//! Writes what a score head says of rows as a Parquet file, with one line per row in the order of
//! the input.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Builder, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::fault::shown;
use crate::files::{self, write_atomic};

/// The lines of a batch.
const BATCH_LINES: usize = 1 << 16;

/// What a score head says of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Classified {
    /// The most likely class; the labels that hold; or the class of each word, `None` of one that
    /// has no token of its own. Nothing of numbers.
    pub labels: Vec<Option<String>>,
    /// The probability of each class or label; of words that of the class of each.
    pub probabilities: Vec<f32>,
    /// The scores as the head gives them, those of all words one after the other.
    pub scores: Vec<f32>,
    /// Why the row was not scored.
    pub error: Option<String>,
}

/// The form of the column with classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelColumn {
    /// `label`: a text.
    One,
    /// `labels`: a list of texts.
    Several,
    /// `tags`: a list of texts, one for each word.
    Tags,
    /// None: `scores` are the result.
    None,
}

/// Writes the rows in order.
///
/// # Errors
/// The file cannot be written; an existing file then stays as it is.
pub fn write_classified(
    path: &Path,
    column: LabelColumn,
    rows: &[Classified],
) -> Result<(), files::FileError> {
    let failed = |cause| files::FileError::new("write", path, std::io::Error::other(cause));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let schema = batch(column, 0, &[]).schema();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(failed)?;
    for (index, rows) in rows.chunks(BATCH_LINES).enumerate() {
        let first = index * BATCH_LINES;
        writer.write(&batch(column, first, rows)).map_err(failed)?;
    }
    write_atomic(path, &writer.into_inner().map_err(failed)?)
}

fn numbers<'a>(lists: impl Iterator<Item = (bool, &'a [f32])>) -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new());
    for (is_there, values) in lists {
        builder.values().append_slice(values);
        builder.append(is_there);
    }
    Arc::new(builder.finish())
}

fn batch(column: LabelColumn, first: usize, rows: &[Classified]) -> RecordBatch {
    let is_scored = |row: &Classified| !row.scores.is_empty();
    let places = (first..first + rows.len()).map(|row| i64::try_from(row).ok());
    let mut columns: Vec<(&str, ArrayRef, bool)> =
        vec![("row", Arc::new(places.collect::<Int64Array>()), false)];
    let lists = || -> ArrayRef {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for row in rows {
            for label in &row.labels {
                builder.values().append_option(label.as_ref());
            }
            builder.append(is_scored(row));
        }
        Arc::new(builder.finish())
    };
    let labels: Option<(&str, ArrayRef)> = match column {
        LabelColumn::One => {
            let labels = rows.iter().map(|row| row.labels.first().cloned().flatten());
            Some(("label", Arc::new(labels.collect::<StringArray>())))
        }
        LabelColumn::Several => Some(("labels", lists())),
        LabelColumn::Tags => Some(("tags", lists())),
        LabelColumn::None => None,
    };
    if let Some((name, labels)) = labels {
        let probabilities = rows.iter();
        let probabilities = probabilities.map(|row| (is_scored(row), row.probabilities.as_slice()));
        columns.push((name, labels, true));
        columns.push(("probabilities", numbers(probabilities), true));
    }
    let scores = rows
        .iter()
        .map(|row| (is_scored(row), row.scores.as_slice()));
    columns.push(("scores", numbers(scores), true));
    let errors = rows.iter().map(|row| row.error.as_deref().map(shown));
    columns.push(("error", Arc::new(errors.collect::<StringArray>()), true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}
