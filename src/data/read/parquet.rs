//! Parquet files as rows: only the needed columns, a batch at a time, each row with its place in
//! the file.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ColumnChunkMetaData;
use serde_json::Value;

use super::cells::{self, ColumnKind};
use super::columns::WantedColumn;
use super::data_file::DataFile;
use super::error::{RowLocation, TableError};
use super::first_bytes::Content;
use super::footer;
use super::likely::{Candidate, Meant};
use super::pages::Pages;
use crate::files;

/// Maximum number of rows in memory at a time.
const BATCH_ROWS: u64 = 2048;
/// Approximate bytes of a batch's text.
const BATCH_BYTES: u64 = 16 << 20;
/// Approximate bytes of a batch if every row used the largest entry of its dictionary.
const WORST_BATCH_BYTES: u64 = 256 << 20;
/// Maximum bytes of the pages that are unpacked at a time, one for each wanted column.
const MAX_PAGE_BYTES: u64 = 256 << 20;
/// Maximum number of rows per byte of a file. Equal rows take next to nothing, but 64 thousand of
/// them in a kilobyte are not data.
const MAX_ROWS_PER_BYTE: i128 = 64;

/// An open file with its footer read and its columns checked.
#[derive(Debug)]
pub struct ParquetTable {
    file: DataFile,
    metadata: ArrowReaderMetadata,
    columns: Vec<WantedColumn>,
}

/// Returns every column of a file with the kinds that it may be meant as.
///
/// # Errors
/// The file cannot be opened, or is not a whole Parquet file.
pub fn candidates(file: &DataFile) -> Result<Vec<Candidate>, TableError> {
    Ok(ParquetTable::open(file, &[])?.candidates())
}

/// Returns every column of a file with its content in words, and the number of rows.
///
/// # Errors
/// The file cannot be opened, or is not a whole Parquet file.
pub fn columns(file: &DataFile) -> Result<(Vec<(String, String)>, u64), TableError> {
    let table = ParquetTable::open(file, &[])?;
    let fields = table.metadata.schema().fields().iter();
    Ok((
        fields
            .map(|field| (field.name().clone(), cells::describe(field.data_type())))
            .collect(),
        table.rows(),
    ))
}

impl ParquetTable {
    /// Reads the footer, no data, and checks that every wanted column is there and can be read.
    ///
    /// # Errors
    /// The file cannot be opened, is not a whole Parquet file, or a column is missing or holds
    /// something else.
    pub fn open(file: &DataFile, wanted: &[WantedColumn]) -> Result<Self, TableError> {
        let (path, opened) = (file.path(), files::open_file(file.parquet())?);
        let metadata =
            footer::attempt(|| footer::read(&opened)).map_err(|reason| {
                match Content::of(file.parquet()) {
                    Some(content) => TableError::Other {
                        path: path.to_owned(),
                        content,
                    },
                    None => TableError::Damaged {
                        path: path.to_owned(),
                        reason,
                    },
                }
            })?;
        let mut table = Self {
            file: file.clone(),
            metadata,
            columns: Vec::new(),
        };
        table.check_rows(
            opened
                .metadata()
                .map_err(|cause| files::FileError::new("read", path, cause))?
                .len(),
        )?;
        for column in wanted {
            match table.type_of(&column.name) {
                Some(found) if column.kind.accepts(found) => table.columns.push(column.clone()),
                // A column that the recipe does not name and the format can do without may be of
                // another matter altogether.
                Some(_) | None if column.optional => {}
                None if table.has_instead(column, wanted) => {}
                Some(found) => return Err(table.unusable(column, found)),
                None => return Err(table.missing(column, wanted)),
            }
        }
        Ok(table)
    }

    /// Whether another column stands in the place of one.
    fn has_instead(&self, column: &WantedColumn, wanted: &[WantedColumn]) -> bool {
        let instead = wanted
            .iter()
            .find(|other| Some(other.canonical) == column.instead);
        instead.is_some_and(|other| self.type_of(&other.name).is_some())
    }

    /// Returns the names of the classes of a column, by its canonical name, where Hugging Face's
    /// `datasets` wrote them into the file: the feature `ClassLabel`, alone or of a list.
    pub fn class_names(&self, canonical: &str) -> Option<Vec<String>> {
        let column = self
            .columns
            .iter()
            .find(|column| column.canonical == canonical)?;
        let metadata = self.metadata.metadata().file_metadata();
        let entries = metadata.key_value_metadata()?.iter();
        let text = entries
            .filter(|entry| entry.key == "huggingface")
            .find_map(|entry| entry.value.as_deref())?;
        let said: Value = serde_json::from_str(text).ok()?;
        let mut feature = &said["info"]["features"][&column.name];
        // A list is `Sequence` or `List` with a feature, or a JSON list of one.
        while feature["_type"] != "ClassLabel" {
            feature = match feature {
                Value::Array(items) => items.first()?,
                other => other.get("feature")?,
            };
        }
        let names = feature["names"].as_array()?.iter();
        names.map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Returns the number of rows in the file.
    pub fn rows(&self) -> u64 {
        self.group_rows().sum()
    }

    /// Returns the columns of the file that are not wanted, or hold another type.
    pub fn unread_columns(&self) -> Vec<String> {
        let fields = self
            .metadata
            .schema()
            .fields()
            .iter()
            .map(|field| field.name());
        fields
            .filter(|name| !self.columns.iter().any(|column| column.name == **name))
            .cloned()
            .collect()
    }

    /// Whether a column with this canonical name is read.
    pub fn has_column(&self, canonical: &str) -> bool {
        self.columns
            .iter()
            .any(|column| column.canonical == canonical)
    }

    /// Whether a column with this canonical name exists and holds lists or objects.
    pub fn has_lists(&self, canonical: &str) -> bool {
        let column = self
            .columns
            .iter()
            .find(|column| column.canonical == canonical);
        column
            .and_then(|column| self.type_of(&column.name))
            .is_some_and(DataType::is_nested)
    }

    /// Returns the place of the first row of each row group.
    pub fn row_groups(&self) -> impl Iterator<Item = RowLocation> {
        let mut next = 0;
        self.group_rows().enumerate().map(move |(row_group, rows)| {
            let row = next;
            next += rows;
            RowLocation {
                path: self.file.path().to_owned(),
                row_group,
                row,
                is_converted: self.file.is_converted(),
            }
        })
    }

    /// Returns the place of the first row of each row group, and the row after its last one.
    pub fn row_groups_until(&self) -> impl Iterator<Item = (RowLocation, u64)> {
        self.row_groups()
            .zip(self.group_rows())
            .map(|(start, rows)| {
                let end = start.row + rows;
                (start, end)
            })
    }

    /// Reads the rows of the row group that starts at this place, a batch at a time.
    ///
    /// # Errors
    /// The file cannot be opened again; each batch may be unreadable.
    pub fn read(
        &self,
        start: &RowLocation,
    ) -> Result<impl Iterator<Item = Result<Batch, TableError>>, TableError> {
        let unreadable = |row: u64, reason: String| TableError::Unreadable {
            place: RowLocation {
                row,
                ..start.clone()
            },
            reason,
        };
        let batch_rows = self
            .batch_rows(start.row_group)
            .map_err(|reason| unreadable(start.row, reason))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            files::open_file(self.file.parquet())?,
            self.metadata.clone(),
        )
        .with_row_groups(vec![start.row_group])
        .with_projection(self.projection())
        .with_batch_size(batch_rows);
        let mut reader =
            footer::attempt(|| builder.build()).map_err(|reason| unreadable(start.row, reason))?;
        let mut next = start.row;
        let batches = std::iter::from_fn(move || files::guarded(|| reader.next()).transpose());
        Ok(batches.map(move |batch| {
            let batch = batch.and_then(|batch| batch.map_err(|error| error.to_string()));
            let batch = batch.map_err(|reason| unreadable(next, reason))?;
            let first = RowLocation {
                row: next,
                ..start.clone()
            };
            next += batch.num_rows() as u64;
            let columns = self
                .columns
                .iter()
                .filter_map(|column| Some((column, batch.column_by_name(&column.name)?.clone())));
            Ok(Batch {
                first,
                rows: batch.num_rows(),
                columns: columns
                    .map(|(column, values)| (column.clone(), values))
                    .collect(),
            })
        }))
    }

    /// Returns the number of rows in a batch: few enough that their text fits in memory and in
    /// Arrow's 32-bit offsets, however long the documents are. The unpacked sizes that the pages
    /// state are summed first.
    fn batch_rows(&self, row_group: usize) -> Result<usize, String> {
        let group = self.metadata.metadata().row_group(row_group);
        let file = files::map(self.file.parquet()).map_err(|error| error.to_string())?;
        let (mut bytes, mut page_bytes, mut dictionary_bytes) = (0, 0, 0);
        for chunk in group.columns().iter().filter(|chunk| self.is_wanted(chunk)) {
            let (start, length) = footer::attempt(|| Ok(chunk.byte_range()))?;
            let pages = file
                .get(start as usize..)
                .and_then(|rest| Pages::of(rest.get(..length as usize)?));
            let pages = pages.ok_or("its pages do not follow one another")?;
            bytes += chunk.uncompressed_size().unsigned_abs();
            page_bytes += pages.largest_bytes + pages.dictionary_bytes;
            dictionary_bytes += pages.dictionary_bytes;
        }
        if page_bytes > MAX_PAGE_BYTES {
            return Err(format!(
                "its pages unpack to {page_bytes} bytes at a time, expected at most \
                {MAX_PAGE_BYTES}"
            ));
        }
        let bytes_per_row = bytes / group.num_rows().unsigned_abs().max(1);
        let rows =
            (BATCH_BYTES / bytes_per_row.max(1)).min(WORST_BATCH_BYTES / dictionary_bytes.max(1));
        Ok(rows.clamp(1, BATCH_ROWS) as usize)
    }

    fn is_wanted(&self, chunk: &ColumnChunkMetaData) -> bool {
        let root = chunk.column_path().parts().first();
        self.columns.iter().any(|column| Some(&column.name) == root)
    }

    /// Checks the number of rows in the footer against the size of the file.
    fn check_rows(&self, file_bytes: u64) -> Result<(), TableError> {
        let groups = self
            .metadata
            .metadata()
            .row_groups()
            .iter()
            .map(|group| i128::from(group.num_rows()));
        let (fewest, rows) = groups.fold((0, 0), |(fewest, sum): (i128, i128), rows| {
            (fewest.min(rows), sum + rows)
        });
        if fewest == 0 && rows <= i128::from(file_bytes) * MAX_ROWS_PER_BYTE {
            return Ok(());
        }
        let claimed = if fewest < 0 { fewest } else { rows };
        let reason = format!("its footer claims {claimed} rows, the file has {file_bytes} bytes");
        Err(TableError::Damaged {
            path: self.file.path().to_owned(),
            reason,
        })
    }

    fn group_rows(&self) -> impl Iterator<Item = u64> {
        self.metadata
            .metadata()
            .row_groups()
            .iter()
            .map(|group| group.num_rows().unsigned_abs())
    }

    fn type_of(&self, column: &str) -> Option<&DataType> {
        self.metadata
            .schema()
            .field_with_name(column)
            .ok()
            .map(|field| field.data_type())
    }

    fn missing(&self, column: &WantedColumn, wanted: &[WantedColumn]) -> TableError {
        TableError::Missing {
            path: self.file.path().to_owned(),
            canonical: column.canonical,
            name: column.name.clone(),
            found: self
                .metadata
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            meant: Meant::find(column, wanted, &self.candidates()),
        }
    }

    /// Returns every column with the kinds that it is likely meant as.
    pub fn candidates(&self) -> Vec<Candidate> {
        let fields = self.metadata.schema().fields().iter();
        let candidate = |(name, data_type): (&String, &DataType)| Candidate {
            name: name.clone(),
            kinds: self.kinds(name, data_type),
            bytes: self.size_bytes(name),
        };
        fields
            .map(|field| candidate((field.name(), field.data_type())))
            .collect()
    }

    /// Returns the kinds of a column. Text that is JSON of a conversation counts as turns.
    fn kinds(&self, name: &str, data_type: &DataType) -> Vec<ColumnKind> {
        match data_type {
            DataType::Binary if self.holds_turns(name) => vec![ColumnKind::Turns],
            DataType::Binary => vec![ColumnKind::Text],
            DataType::List(item) if cells::is_turn(item.data_type()) => vec![ColumnKind::Turns],
            DataType::List(_) => vec![ColumnKind::List],
            DataType::Boolean => vec![ColumnKind::Label],
            number if number.is_numeric() => vec![ColumnKind::Number],
            _ => Vec::new(),
        }
    }

    /// Whether the first text of a column is JSON of a list of turns.
    fn holds_turns(&self, name: &str) -> bool {
        let wanted = WantedColumn {
            canonical: "messages",
            name: name.to_owned(),
            kind: ColumnKind::Turns,
            optional: false,
            instead: None,
        };
        let table = Self {
            file: self.file.clone(),
            metadata: self.metadata.clone(),
            columns: vec![wanted],
        };
        let first = || {
            let batch = table.read(&table.row_groups().next()?).ok()?.next()?.ok()?;
            (0..batch.rows()).find_map(|row| {
                batch
                    .cell("messages", row)
                    .ok()?
                    .as_str()
                    .map(str::to_owned)
            })
        };
        first()
            .and_then(|text| serde_json::from_str(&text).ok())
            .is_some_and(|value: Value| cells::are_turns(&value))
    }

    fn unusable(&self, column: &WantedColumn, found: &DataType) -> TableError {
        TableError::Unusable {
            path: self.file.path().to_owned(),
            name: column.name.clone(),
            found: cells::describe(found),
            expected: column.kind.describe(),
        }
    }

    fn size_bytes(&self, column: &str) -> i64 {
        let chunks = self
            .metadata
            .metadata()
            .row_groups()
            .iter()
            .flat_map(|group| group.columns());
        let own = chunks.filter(|chunk| {
            chunk
                .column_path()
                .parts()
                .first()
                .is_some_and(|root| root == column)
        });
        own.map(|chunk| chunk.uncompressed_size()).sum()
    }

    fn projection(&self) -> ProjectionMask {
        let is_wanted = |name: &str| self.columns.iter().any(|column| column.name == name);
        let fields = self.metadata.schema().fields().iter().enumerate();
        let roots = fields
            .filter(|(_, field)| is_wanted(field.name()))
            .map(|(root, _)| root);
        ProjectionMask::roots(self.metadata.parquet_schema(), roots)
    }
}

/// A batch of rows of a file, in memory.
#[derive(Debug)]
pub struct Batch {
    first: RowLocation,
    rows: usize,
    columns: Vec<(WantedColumn, ArrayRef)>,
}

impl Batch {
    /// Returns the number of rows in the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the file has a column, by its canonical name.
    pub fn has(&self, canonical: &str) -> bool {
        self.columns
            .iter()
            .any(|(column, _)| column.canonical == canonical)
    }

    /// Returns the rows of the batch that lie within a range of the file's rows.
    pub fn part(&self, of_file: &Range<u64>) -> Range<usize> {
        let within = |row: u64| row.saturating_sub(self.first.row).min(self.rows as u64) as usize;
        within(of_file.start)..within(of_file.end)
    }

    /// Returns the place in the file of a row of the batch.
    pub fn place(&self, row: usize) -> RowLocation {
        RowLocation {
            row: self.first.row + row as u64,
            ..self.first.clone()
        }
    }

    /// Whether a cell is null, or its column is absent. What JSON has no number for, such as NaN,
    /// is not.
    pub fn is_null(&self, canonical: &str, row: usize) -> bool {
        let mut columns = self.columns.iter();
        let found = columns.find(|(column, _)| column.canonical == canonical);
        found.is_none_or(|(_, values)| values.is_null(row))
    }

    /// Returns a cell by the column's canonical name; null if the file lacks that column.
    ///
    /// # Errors
    /// A text is not UTF-8, or too long.
    pub fn cell(&self, canonical: &str, row: usize) -> Result<Value, TableError> {
        let Some((column, values)) = self
            .columns
            .iter()
            .find(|(column, _)| column.canonical == canonical)
        else {
            return Ok(Value::Null);
        };
        cells::cell(values, row).map_err(|reason| TableError::Cell {
            place: self.place(row),
            column: column.name.clone(),
            reason,
        })
    }
}

#[cfg(test)]
pub(in crate::data) mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::fault::{Exit, Explain};

    pub(in crate::data) fn write_table(
        path: &Path,
        columns: Vec<(&str, ArrayRef)>,
        group_rows: usize,
    ) {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, values)| (name, values, true)),
        );
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(group_rows))
            .build();
        let file = File::create(path).expect("created");
        let batch = batch.expect("columns of one length");
        let mut writer =
            ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
    }

    pub(in crate::data) fn texts<const ROWS: usize>(rows: [&str; ROWS]) -> ArrayRef {
        Arc::new(StringArray::from(rows.to_vec()))
    }

    /// Writes a column to a file and returns the values read back.
    pub(in crate::data) fn read_column(column: ArrayRef, kind: ColumnKind) -> Vec<Value> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        write_table(&path, vec![("x", column)], 1000);
        read(&path, wanted("x", kind, false)).expect("read")
    }

    fn wanted(name: &str, kind: ColumnKind, optional: bool) -> WantedColumn {
        WantedColumn {
            canonical: "text",
            name: name.to_owned(),
            kind,
            optional,
            instead: None,
        }
    }

    fn read(path: &Path, column: WantedColumn) -> Result<Vec<Value>, TableError> {
        let table = ParquetTable::open(&path.to_owned().into(), &[column])?;
        let mut values = Vec::new();
        for start in table.row_groups() {
            for batch in table.read(&start)? {
                let batch = batch?;
                for row in 0..batch.rows() {
                    assert_eq!(batch.place(row).row, values.len() as u64);
                    values.push(batch.cell("text", row)?);
                }
            }
        }
        assert_eq!(table.rows(), values.len() as u64);
        Ok(values)
    }

    #[test]
    fn columns_are_found_by_name_in_any_order_across_row_groups() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5));
        for columns in [
            vec![
                ("id", ids.clone()),
                ("text", texts(["a", "b", "c", "d", "e"])),
            ],
            vec![("text", texts(["a", "b", "c", "d", "e"])), ("id", ids)],
        ] {
            write_table(&path, columns, 2);
            assert_eq!(
                read(&path, wanted("text", ColumnKind::Text, false)).expect("read"),
                ["a", "b", "c", "d", "e"]
            );
        }
        assert_eq!(
            read(&path, wanted("note", ColumnKind::Text, true)).expect("read"),
            vec![Value::Null; 5]
        );
    }

    #[test]
    fn more_rows_than_a_batch_keep_their_numbers() {
        let rows = BATCH_ROWS * 2 + 3;
        let numbers: Vec<String> = (0..rows).map(|row| row.to_string()).collect();
        assert_eq!(
            read_column(
                Arc::new(StringArray::from(numbers.clone())),
                ColumnKind::Text
            ),
            numbers
        );
    }

    #[test]
    fn a_missing_column_is_told_with_those_that_are_there_and_the_likely_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        write_table(
            &path,
            vec![
                ("term", texts(["a", "b"])),
                ("definition", texts(["long text", "longer text"])),
                ("id", ids),
            ],
            10,
        );
        let error =
            read(&path, wanted("text", ColumnKind::Text, false)).expect_err("no such column");
        assert_eq!(
            error.to_string(),
            format!(
                "`{}` has no column `text`, it has: term, definition, id",
                path.display()
            )
        );
        assert_eq!(
            error.hint().as_deref(),
            Some("say which column holds it, such as `columns: {text: definition}`")
        );
        let error =
            read(&path, wanted("messages", ColumnKind::Turns, false)).expect_err("no such column");
        let said = "say which column holds it, in `columns: {text: ..}`";
        assert_eq!(
            error.hint().as_deref(),
            Some(said),
            "text may be JSON, and this is none"
        );
        let error = read(&path, wanted("id", ColumnKind::Text, false)).expect_err("numbers");
        assert_eq!(
            error.to_string(),
            format!(
                "column `id` of `{}` holds numbers, expected text",
                path.display()
            )
        );
    }

    #[test]
    fn bad_utf8_is_told_with_row_group_and_row() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        write_table(
            &path,
            vec![("text", texts(["a", "b", "c", "d", "broken", "f"]))],
            3,
        );
        let mut bytes = std::fs::read(&path).expect("read");
        for start in 0..bytes.len() - 6 {
            if bytes[start..].starts_with(b"broken") {
                bytes[start + 2] = 0xff;
            }
        }
        std::fs::write(&path, bytes).expect("written");
        let error = read(&path, wanted("text", ColumnKind::Text, false)).expect_err("not UTF-8");
        let expected = "row group 1, row 4, column `text`: invalid utf-8 sequence of 1 bytes from \
            index 2";
        assert_eq!(
            error.to_string(),
            format!("`{}`, {expected}", path.display())
        );
        assert_eq!(error.exit(), Exit::Input);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        write_table(&path, vec![("text", texts(["a", "b", "c"]))], 2);
        let whole = std::fs::read(&path).expect("read");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            let error = read(&path, wanted("text", ColumnKind::Text, false)).expect_err("cut off");
            assert!(
                matches!(error, TableError::Damaged { .. }) && error.exit() == Exit::Input,
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn a_damaged_page_is_told_with_its_row_group() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        write_table(&path, vec![("text", texts(["a", "b", "c", "d"]))], 2);
        let metadata = ParquetTable::open(&path.clone().into(), &[])
            .expect("opened")
            .metadata;
        let (start, length) = metadata.metadata().row_group(1).column(0).byte_range();
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[start as usize..(start + length) as usize].fill(0xff);
        std::fs::write(&path, bytes).expect("written");
        let error = read(&path, wanted("text", ColumnKind::Text, false)).expect_err("damaged");
        assert!(
            error
                .to_string()
                .contains("row group 1, row 2: the rows from here on cannot be read: "),
            "{error}"
        );
    }
}
