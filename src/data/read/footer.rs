//! The footer of a Parquet file, read without two properties of its writer.
//!
//! The embedded Arrow schema is ignored: dictionaries, views and large offsets are how the writer
//! held the data in memory, not what is in the file. The mark that a column is UTF-8 is removed as
//! well: Arrow checks whole pages and can only report that some row is wrong, while
//! [`super::cells`] checks each text and knows its row.

use std::fs::File;
use std::sync::Arc;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{ConvertedType, LogicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

use crate::files;

/// Reads the footer; in the returned schema every text column is a column of bytes.
///
/// # Errors
/// The file is not a whole Parquet file.
pub fn read(file: &File) -> Result<ArrowReaderMetadata, ParquetError> {
    let footer = ParquetMetaDataReader::new().parse_and_finish(file)?;
    let schema = SchemaDescriptor::new(without_utf8(
        &footer.file_metadata().schema_descr().root_schema_ptr(),
    )?);
    ArrowReaderMetadata::load(
        file,
        ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(Arc::new(schema)),
    )
}

fn without_utf8(node: &TypePtr) -> Result<TypePtr, ParquetError> {
    let info = node.get_basic_info();
    if node.is_group() {
        let fields = node
            .get_fields()
            .iter()
            .map(without_utf8)
            .collect::<Result<_, _>>()?;
        let group = Type::group_type_builder(node.name())
            .with_fields(fields)
            .with_converted_type(info.converted_type());
        let group = group.with_logical_type(info.logical_type_ref().cloned());
        let group = if info.has_repetition() {
            group.with_repetition(info.repetition())
        } else {
            group
        };
        return Ok(Arc::new(group.build()?));
    }
    let is_text = matches!(
        info.logical_type_ref(),
        Some(LogicalType::String | LogicalType::Json)
    ) || matches!(
        info.converted_type(),
        ConvertedType::UTF8 | ConvertedType::JSON
    );
    if !is_text {
        return Ok(node.clone());
    }
    let bytes = Type::primitive_type_builder(node.name(), node.get_physical_type())
        .with_repetition(info.repetition());
    Ok(Arc::new(bytes.build()?))
}

/// Runs a read of the parquet crate; a panic, which damaged files can cause, becomes an error.
///
/// # Errors
/// The reason, in words.
pub fn attempt<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    files::guarded(read)?.map_err(|error| reason(&error))
}

/// Returns the message of an error, without the reader's own prefix.
fn reason(error: &ParquetError) -> String {
    match error {
        ParquetError::General(reason) | ParquetError::EOF(reason) => reason.clone(),
        other => other.to_string(),
    }
}
