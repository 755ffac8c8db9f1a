//! One column of texts of a data file, row by row.

use super::cells::ColumnKind;
use super::columns::WantedColumn;
use super::data_file::DataFile;
use super::error::TableError;
use super::parquet::ParquetTable;

/// Returns the text of each row in a column; `None` where the cell is null.
///
/// # Errors
/// The file cannot be read, or it has no such column of texts.
pub fn texts(file: &DataFile, column: &str) -> Result<Vec<Option<String>>, TableError> {
    let wanted = [WantedColumn {
        canonical: "text",
        name: column.to_owned(),
        kind: ColumnKind::Text,
        optional: false,
        instead: None,
    }];
    let table = ParquetTable::open(file, &wanted)?;
    let mut texts = Vec::new();
    for group in table.row_groups() {
        for batch in table.read(&group)? {
            let batch = batch?;
            for row in 0..batch.rows() {
                texts.push(batch.cell("text", row)?.as_str().map(str::to_owned));
            }
        }
    }
    Ok(texts)
}
