//! Writer of the Parquet file: it writes a row group whenever enough rows are there, so that memory
//! does not grow with the file.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_json::ReaderBuilder;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::error::ConvertError;
use super::row::Row;
use crate::files::{self, NewFile, write_pieces_atomic, write_private};

/// Approximate bytes of a row group before compression.
const GROUP_BYTES: usize = 32 << 20;

/// A file that records why it could not be written, because the Parquet writer turns errors into
/// text.
struct Output<'a> {
    file: &'a mut NewFile,
    failed: &'a Mutex<Option<files::FileError>>,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        written.map(|()| bytes.len()).map_err(|error| {
            let kind = error.cause.kind();
            if let Ok(mut failed) = self.failed.lock() {
                failed.get_or_insert(error);
            }
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Parquet file to which batches are written.
pub(super) struct ParquetOutput<'a> {
    writer: ArrowWriter<Output<'a>>,
    failed: &'a Mutex<Option<files::FileError>>,
    path: &'a Path,
    bytes: usize,
    /// Rows so far in which the first column is null.
    pub first_nulls: u64,
}

impl ParquetOutput<'_> {
    /// Appends rows.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ConvertError> {
        let written = self.writer.write(batch);
        self.checked(written.map_err(|error| error.to_string()))?;
        self.bytes += batch.get_array_memory_size();
        self.first_nulls += batch.columns().first().map_or(0, Array::null_count) as u64;
        if self.bytes >= GROUP_BYTES {
            self.bytes = 0;
            let flushed = self.writer.flush();
            self.checked(flushed.map_err(|error| error.to_string()))?;
        }
        Ok(())
    }

    fn checked<T>(&self, done: Result<T, String>) -> Result<T, ConvertError> {
        done.map_err(|reason| failure(self.failed, self.path, reason))
    }
}

fn failure(failed: &Mutex<Option<files::FileError>>, path: &Path, reason: String) -> ConvertError {
    let of_disk = failed.lock().ok().and_then(|mut failed| failed.take());
    of_disk
        .unwrap_or_else(|| files::FileError::new("write", path, io::Error::other(reason)))
        .into()
}

/// Writes a Parquet file, completely or not at all; if `is_private`, for this user alone.
///
/// # Errors
/// The disk is full or fails, or `fill` does.
pub(super) fn write(
    (path, is_private): (&Path, bool),
    schema: &SchemaRef,
    metadata: Vec<(&str, String)>,
    fill: impl FnOnce(&mut ParquetOutput) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    let pairs = metadata
        .into_iter()
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .collect();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(pairs))
        .build();
    // What Arrow would add says how the rows were in this memory.
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    let failed = Mutex::new(None);
    let write_rows = |file: &mut NewFile| {
        let output = Output {
            file,
            failed: &failed,
        };
        let refused =
            |error: parquet::errors::ParquetError| failure(&failed, path, error.to_string());
        let writer =
            ArrowWriter::try_new_with_options(output, schema.clone(), options).map_err(refused)?;
        let mut table = ParquetOutput {
            writer,
            failed: &failed,
            path,
            bytes: 0,
            first_nulls: 0,
        };
        fill(&mut table)?;
        table.writer.close().map(drop).map_err(refused)
    };
    if is_private {
        write_private(path, write_rows)
    } else {
        write_pieces_atomic(path, write_rows)
    }
}

/// Builds a batch from rows.
///
/// # Errors
/// A value is not of its column's type; the reason in words.
pub(super) fn batch(schema: &Arc<Schema>, rows: &[Row]) -> Result<Option<RecordBatch>, String> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut decoder = ReaderBuilder::new(schema.clone())
        .with_batch_size(rows.len())
        .with_strict_mode(true)
        .build_decoder()
        .map_err(|error| error.to_string())?;
    decoder
        .serialize(rows)
        .and_then(|()| decoder.flush())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use serde_json::json;

    use super::*;
    use crate::fault::{Exit, Explain};
    use crate::files::disk::{Operation, trial};

    #[test]
    fn a_full_disk_is_told_as_one_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
        let row = Row::from_iter([("text".to_owned(), json!("x"))]);
        let rows = batch(&schema, &[row]).expect("a batch").expect("a row");
        for allowed in 0..2 {
            let mut left = allowed;
            let full = move |operation, _: &Path| match operation {
                Operation::Write if left == 0 => Err(io::ErrorKind::StorageFull.into()),
                Operation::Write => {
                    left -= 1;
                    Ok(())
                }
                _ => Ok(()),
            };
            let written = trial::with(full, || {
                write((&path, false), &schema, Vec::new(), |table| {
                    table.write(&rows)
                })
            });
            let error = written.expect_err("a full disk");
            assert_eq!(error.exit(), Exit::Io, "{error}");
            assert!(
                error
                    .hint()
                    .is_some_and(|hint| hint.contains("free some space")),
                "{error}"
            );
            assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
        }
        write((&path, true), &schema, Vec::new(), |table| {
            table.write(&rows)
        })
        .expect("written");
    }
}
