//! The files to convert, and the form of each: by its name, otherwise by its first bytes.

use std::path::{Path, PathBuf};

use super::delimited;
use super::error::ConvertError;
use super::lines;
use super::piece::{Content, MAX_ROW_BYTES, Record, RecordBlock, counted};
use super::stream::Stream;
use crate::data::read::first_bytes;
use crate::files;

/// Columns for the text of a file and for its path.
const TEXT_COLUMNS: [&str; 2] = ["text", "path"];
/// Extensions of compressed files.
const PACKED: [&str; 3] = ["gz", "zst", "zstd"];
/// The first bytes of a Parquet file.
const PARQUET: &[u8] = b"PAR1";

/// Form of a file with rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileForm {
    /// An array of objects, or one object per line.
    Json,
    /// One object per line.
    JsonLines,
    /// A table whose separator is detected.
    Csv,
    /// A table separated by tabs.
    Tsv,
    /// One text as a whole.
    Text,
    /// Parquet.
    Parquet,
}

impl FileForm {
    /// Returns the form that a name implies.
    pub fn of_name(path: &Path) -> Option<Self> {
        let end = |path: &Path| {
            path.extension()
                .map(|end| end.to_string_lossy().to_lowercase())
                .unwrap_or_default()
        };
        let (mut name, mut ending) = (path.to_owned(), end(path));
        if PACKED.contains(&ending.as_str()) {
            name.set_extension("");
            ending = end(&name);
        }
        match ending.as_str() {
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "txt" | "md" | "text" => Some(Self::Text),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// Returns the form that the first bytes imply, for a name that implies none or a Parquet file
    /// that is not one.
    fn of_content(path: &Path) -> Option<Self> {
        match first_bytes::Content::of(path)? {
            first_bytes::Content::JsonLines | first_bytes::Content::Json => Some(Self::Json),
            first_bytes::Content::Csv => Some(Self::Csv),
            first_bytes::Content::Tsv => Some(Self::Tsv),
            _ => None,
        }
    }

    fn of(path: &Path) -> Result<Self, ConvertError> {
        let named = Self::of_name(path);
        if let Some(form) = named
            .filter(|form| *form != Self::Parquet)
            .or_else(|| Self::of_content(path))
            .or(named)
        {
            return Ok(form);
        }
        let mut stream = Stream::open(path)?;
        let head = stream.buffer()?;
        let sign = head.iter().find(|byte| !byte.is_ascii_whitespace());
        match sign {
            Some(b'{' | b'[') => Ok(Self::Json),
            _ if head.starts_with(PARQUET) => Ok(Self::Parquet),
            _ => Err(ConvertError::source(
                path,
                "has a name that does not say what it is",
                "give it the ending .json, .jsonl, .csv, .tsv, .txt or .parquet; any of them may \
                be packed, such as .jsonl.gz",
            )),
        }
    }
}

/// A file to convert.
#[derive(Debug)]
pub(super) struct Input {
    pub path: PathBuf,
    /// The path as named, or relative to the named folder.
    pub name: String,
    pub form: FileForm,
    pub bytes: u64,
    /// The file or folder that the user named.
    pub top: PathBuf,
}

/// Finds the files of the named paths, in that order; the files of a folder are sorted.
///
/// # Errors
/// A file does not exist, or a folder has no file of a known form.
pub(super) fn find(
    sources: &[PathBuf],
    notes: &mut Vec<String>,
) -> Result<Vec<Input>, ConvertError> {
    let mut inputs = Vec::new();
    for source in sources {
        if source.is_dir() {
            inputs.extend(in_folder(source, notes)?);
        } else {
            let bytes = files::open_file(source)?
                .metadata()
                .map_err(|cause| files::FileError::new("read", source, cause))?
                .len();
            if bytes == 0 {
                return Err(ConvertError::source(
                    source,
                    "is empty, expected rows",
                    "give a file with rows",
                ));
            }
            let name = source
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            inputs.push(Input {
                path: source.clone(),
                name,
                form: FileForm::of(source)?,
                bytes,
                top: source.clone(),
            });
        }
    }
    let has_tables = inputs.iter().any(|input| input.form == FileForm::Parquet);
    if let Some(other) = inputs
        .iter()
        .find(|input| has_tables && input.form != FileForm::Parquet)
    {
        let hint = "convert the others first, then all Parquet files together";
        return Err(ConvertError::source(
            &other.path,
            "is no Parquet file, and others of the command are",
            hint,
        ));
    }
    Ok(inputs)
}

/// Finds the files with rows in a folder, or text files if there are none.
fn in_folder(folder: &Path, notes: &mut Vec<String>) -> Result<Vec<Input>, ConvertError> {
    let found = files::files_below(folder)?;
    let form = |path: &PathBuf| FileForm::of_name(path);
    let is_texts = !found
        .iter()
        .filter_map(form)
        .any(|form| form != FileForm::Text);
    let is_taken =
        |path: &&PathBuf| form(path).is_some_and(|form| (form == FileForm::Text) == is_texts);
    let input = |path: &PathBuf| {
        let bytes = path
            .metadata()
            .map_err(|cause| files::FileError::new("read", path, cause))?
            .len();
        let name = path
            .strip_prefix(folder)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        let form = if is_texts {
            FileForm::Text
        } else {
            FileForm::of(path)?
        };
        Ok::<_, ConvertError>(Input {
            path: path.clone(),
            name,
            form,
            bytes,
            top: folder.to_owned(),
        })
    };
    let inputs = found
        .iter()
        .filter(is_taken)
        .map(input)
        .collect::<Result<Vec<_>, ConvertError>>()?;
    if inputs.is_empty() {
        let reason = format!(
            "has no file that can be converted among {}",
            counted(found.len(), "file")
        );
        return Err(ConvertError::source(
            folder,
            reason,
            "put .jsonl, .json, .csv, .tsv, .parquet, .txt or .md files into it",
        ));
    }
    let others: Vec<String> = found
        .iter()
        .filter(|path| !is_taken(path))
        .map(|path| format!("`{}`", path.display()))
        .collect();
    if !others.is_empty() {
        notes.push(format!(
            "files that are not read: {}",
            files::listed(&others).join(", ")
        ));
    }
    Ok(inputs)
}

/// Reader of an input.
pub(super) enum InputReader {
    Lines(lines::JsonReader),
    Table(Box<delimited::DelimitedReader>),
    Text {
        stream: Stream,
        name: String,
        header: Vec<String>,
        is_done: bool,
    },
}

impl InputReader {
    /// Opens a file that is not Parquet.
    ///
    /// # Errors
    /// It cannot be read, or its header is wrong.
    pub fn open(input: &Input) -> Result<Self, ConvertError> {
        let stream = Stream::open(&input.path)?;
        Ok(match input.form {
            FileForm::Json => Self::Lines(lines::JsonReader::new(stream, false)),
            FileForm::JsonLines => Self::Lines(lines::JsonReader::new(stream, true)),
            FileForm::Csv => Self::Table(Box::new(delimited::DelimitedReader::new(stream, None)?)),
            FileForm::Tsv => Self::Table(Box::new(delimited::DelimitedReader::new(
                stream,
                Some(b'\t'),
            )?)),
            FileForm::Text | FileForm::Parquet => Self::Text {
                stream,
                name: input.name.clone(),
                header: TEXT_COLUMNS.map(str::to_owned).to_vec(),
                is_done: false,
            },
        })
    }

    /// Returns the names of the cells; empty for JSON.
    pub fn header(&self) -> &[String] {
        match self {
            Self::Lines(_) => &[],
            Self::Table(table) => table.header(),
            Self::Text { header, .. } => header,
        }
    }

    pub fn stream(&self) -> &Stream {
        match self {
            Self::Lines(lines) => lines.stream(),
            Self::Table(table) => table.stream(),
            Self::Text { stream, .. } => stream,
        }
    }

    pub fn into_stream(self) -> Stream {
        match self {
            Self::Lines(lines) => lines.into_stream(),
            Self::Table(table) => table.into_stream(),
            Self::Text { stream, .. } => stream,
        }
    }

    /// Returns notes for the user on how the file was read.
    pub fn notes(&self, input: &Input) -> Vec<String> {
        let said = match self {
            Self::Lines(lines) if lines.blank > 0 => {
                vec![counted(lines.blank as usize, "blank line") + " passed over"]
            }
            Self::Table(table) if input.form == FileForm::Csv => {
                table.separator_note().into_iter().collect()
            }
            Self::Table(table) => table.long_rows_note().into_iter().collect(),
            _ => Vec::new(),
        };
        let path = input.path.display();
        said.iter()
            .map(|said| format!("`{path}`: {said}"))
            .collect()
    }

    /// Returns the next rows; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_piece(&mut self) -> Result<Option<RecordBlock>, ConvertError> {
        match self {
            Self::Lines(lines) => lines.next_piece(),
            Self::Table(table) => table.next_piece(),
            Self::Text { is_done: true, .. } => Ok(None),
            Self::Text {
                stream,
                name,
                is_done,
                ..
            } => {
                *is_done = true;
                text(stream, name).map(Some)
            }
        }
    }
}

/// Reads a whole file as one row.
fn text(stream: &mut Stream, name: &str) -> Result<RecordBlock, ConvertError> {
    let mut bytes = Vec::new();
    loop {
        let buffer = stream.buffer()?;
        let count = buffer.len();
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(buffer);
        stream.consume(count);
        if bytes.len() > MAX_ROW_BYTES {
            let reason = format!(
                "a text of more than {MAX_ROW_BYTES} bytes: split what is that long into rows"
            );
            return Ok(RecordBlock {
                bytes: Vec::new(),
                records: vec![Record {
                    line: 1,
                    content: Content::Broken(reason),
                }],
            });
        }
    }
    let end = bytes.len();
    bytes.extend_from_slice(name.as_bytes());
    let cells = vec![0..end, end..bytes.len()];
    Ok(RecordBlock {
        bytes,
        records: vec![Record {
            line: 1,
            content: Content::Cells(cells),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is() {
        for (name, form) in [
            ("a.json", Some(FileForm::Json)),
            ("a.JSONL.gz", Some(FileForm::JsonLines)),
            ("a.ndjson.zst", Some(FileForm::JsonLines)),
            ("a.csv.zstd", Some(FileForm::Csv)),
            ("a.tsv", Some(FileForm::Tsv)),
            ("a.txt", Some(FileForm::Text)),
            ("a.gz", None),
            ("json", None),
        ] {
            assert_eq!(FileForm::of_name(Path::new(name)), form, "{name}");
        }
    }
}
