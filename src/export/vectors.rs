//! Vectors of texts as a Parquet file: the texts, and a list of as many numbers for each.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::files;

/// The column of vectors.
const EMBEDDING: &str = "embedding";

/// Texts with their vectors, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Vectors<'a> {
    /// The name of the column of texts.
    pub column: &'a str,
    /// The texts.
    pub texts: &'a [Option<String>],
    /// The vectors; null where there is no text.
    pub vectors: &'a [Option<Vec<f32>>],
    /// Numbers of a vector.
    pub width: usize,
}

/// Writes a column of texts and the column `embedding`, a list of fixed length.
///
/// # Errors
/// The file cannot be written; an existing file then stays as it is.
pub fn write_vectors(path: &Path, rows: &Vectors) -> Result<(), files::FileError> {
    let failed = |cause: String| files::FileError::new("write", path, std::io::Error::other(cause));
    let numbers: Vec<f32> = rows
        .vectors
        .iter()
        .flat_map(|vector| match vector {
            Some(vector) => vector.clone(),
            None => vec![0.0; rows.width],
        })
        .collect();
    let nulls: NullBuffer = rows.vectors.iter().map(Option::is_some).collect();
    let vectors = FixedSizeListArray::try_new(
        Arc::new(Field::new("element", DataType::Float32, false)),
        i32::try_from(rows.width).map_err(|error| failed(error.to_string()))?,
        Arc::new(Float32Array::from(numbers)),
        Some(nulls),
    )
    .map_err(|error| failed(error.to_string()))?;
    let texts: StringArray = rows.texts.iter().map(Option::as_deref).collect();
    let columns: [(&str, ArrayRef, bool); 2] = [
        (rows.column, Arc::new(texts), true),
        (EMBEDDING, Arc::new(vectors), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns)
        .map_err(|error| failed(error.to_string()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))
        .map_err(|error| failed(error.to_string()))?;
    writer
        .write(&batch)
        .map_err(|error| failed(error.to_string()))?;
    let bytes = writer
        .into_inner()
        .map_err(|error| failed(error.to_string()))?;
    files::write_atomic(path, &bytes)
}
