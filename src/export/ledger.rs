//! Writes the ledger as a Parquet file with one line per row that was read, for other programs to
//! count and search.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::data::RowRecord;
use crate::fault::shown;
use crate::files::{self, write_atomic};

/// The lines of a batch.
const BATCH_LINES: usize = 1 << 16;

/// A row and its status.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Its source's key in the recipe.
    pub dataset: &'a str,
    /// The row and its status.
    pub record: RowRecord<'a>,
    /// How often the run trains the row.
    pub times_trained: u32,
}

/// Writes the lines in order.
///
/// # Errors
/// The file cannot be written; an existing file then stays as it is.
pub fn write_ledger<'a>(
    path: &Path,
    lines: impl Iterator<Item = Line<'a>>,
) -> Result<(), files::FileError> {
    let failed = |cause| files::FileError::new("write", path, std::io::Error::other(cause));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), batch(&[]).schema(), Some(properties)).map_err(failed)?;
    let mut lines = lines.peekable();
    while lines.peek().is_some() {
        let some: Vec<Line> = lines.by_ref().take(BATCH_LINES).collect();
        writer.write(&batch(&some)).map_err(failed)?;
    }
    write_atomic(path, &writer.into_inner().map_err(failed)?)
}

fn batch(lines: &[Line]) -> RecordBatch {
    let number = |of: fn(&Line) -> u64| -> ArrayRef {
        Arc::new(
            lines
                .iter()
                .map(|line| i64::try_from(of(line)).ok())
                .collect::<Int64Array>(),
        )
    };
    let flag = |of: fn(&RowRecord) -> bool| -> ArrayRef {
        Arc::new(
            lines
                .iter()
                .map(|line| Some(of(&line.record)))
                .collect::<BooleanArray>(),
        )
    };
    let files = lines
        .iter()
        .map(|line| Some(line.record.file.to_string_lossy()));
    let of = lines.iter().map(|line| {
        line.record
            .duplicate_of
            .and_then(|number| i64::try_from(number).ok())
    });
    let columns: [(&str, ArrayRef, bool); 11] = [
        (
            "dataset",
            Arc::new(
                lines
                    .iter()
                    .map(|line| Some(line.dataset))
                    .collect::<StringArray>(),
            ),
            false,
        ),
        ("file", Arc::new(files.collect::<StringArray>()), false),
        ("row", number(|line| line.record.row), false),
        (
            "fate",
            Arc::new(
                lines
                    .iter()
                    .map(|line| Some(line.record.status.word()))
                    .collect::<StringArray>(),
            ),
            false,
        ),
        ("tokens", number(|line| line.record.len() as u64), false),
        (
            "trained_tokens",
            number(|line| line.record.trained_tokens() as u64),
            false,
        ),
        (
            "times_trained",
            number(|line| line.times_trained.into()),
            false,
        ),
        ("truncated", flag(|record| record.is_truncated()), false),
        ("duplicate", flag(|record| record.is_duplicate), false),
        ("duplicate_of", Arc::new(of.collect::<Int64Array>()), true),
        (
            "reason",
            Arc::new(
                lines
                    .iter()
                    .map(|line| line.record.reason.map(shown))
                    .collect::<StringArray>(),
            ),
            true,
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns)
        .expect("columns of one length, without nulls where there may be none")
}
