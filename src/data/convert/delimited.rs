//! CSV and TSV split into cells. A row that opens a quote and never closes it would silently
//! swallow the rest of the file, so the end is checked.

use std::ops::Range;

use csv_core::{ReadRecordResult, ReaderBuilder};

use super::error::ConvertError;
use super::piece::{Content, MAX_ROW_BYTES, Record, RecordBlock, counted};
use super::stream::Stream;

/// Maximum number of columns, more than any table has.
const MAX_COLUMNS: usize = 2000;
/// Separators of cells; of those that are equally frequent in the header the first is taken.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Reader that splits a table into cells.
pub(super) struct DelimitedReader {
    stream: Stream,
    parser: csv_core::Reader,
    header: Vec<String>,
    separator: u8,
    /// Number of rows over several lines, and the line of the first one.
    long_rows: u64,
    first_long_row: u64,
    /// Whether the file has ended and its last row was returned.
    is_done: bool,
}

/// Result of reading a record into a piece.
enum Read {
    Record {
        line: u64,
        cells: Vec<Range<usize>>,
    },
    TooLong {
        line: u64,
    },
    /// A cell continues after its closing quote.
    Glued {
        line: u64,
    },
    End,
}

/// The reason for a row of [`Read::Glued`].
const GLUED: &str = "a cell has text after its closing quote: put the whole cell in quotes, and \
    write a quote within it as `\"\"`";

/// Position within a record, as far as quotes decide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// At the start of a cell, or in one without quotes.
    Outside {
        at_start: bool,
    },
    Inside,
    /// After a quote within quotes, which closes them unless another quote follows.
    Closing,
}

impl Quotes {
    const START: Self = Self::Outside { at_start: true };

    /// Returns the position after the bytes; `None` where a cell continues after its quotes, which
    /// the parser would join to it.
    fn after(self, bytes: &[u8], separator: u8) -> Option<Self> {
        bytes.iter().try_fold(self, |quotes, byte| {
            let ends = *byte == separator || matches!(byte, b'\n' | b'\r');
            Some(match (quotes, byte) {
                (Self::Inside, b'"') => Self::Closing,
                (Self::Inside, _) | (Self::Closing | Self::Outside { at_start: true }, b'"') => {
                    Self::Inside
                }
                _ if ends => Self::START,
                (Self::Closing, _) => return None,
                (Self::Outside { .. }, _) => Self::Outside { at_start: false },
            })
        })
    }
}

impl DelimitedReader {
    /// Reads the header.
    ///
    /// # Errors
    /// The file cannot be read or is empty, or its header has a name twice.
    pub fn new(mut stream: Stream, separator: Option<u8>) -> Result<Self, ConvertError> {
        let (said_bytes, said) = said_separator(stream.buffer()?);
        stream.consume(said_bytes);
        let separator = match separator.or(said) {
            Some(separator) => separator,
            None => common_separator(stream.buffer()?),
        };
        let mut parser = ReaderBuilder::new().delimiter(separator).build();
        parser.set_line(1 + u64::from(said_bytes > 0));
        let mut reader = Self {
            stream,
            parser,
            header: Vec::new(),
            separator,
            long_rows: 0,
            first_long_row: 0,
            is_done: false,
        };
        let mut piece = RecordBlock::default();
        let cells = match reader.read(&mut piece)? {
            Read::Record { cells, .. } => cells,
            Read::TooLong { .. } => {
                return Err(reader.refused(
                    "has a header of more than 16 MiB",
                    "give it a line of names",
                ));
            }
            Read::Glued { .. } => {
                return Err(reader.refused(
                    "has a name in its header with text after its closing quote",
                    "put the whole name in quotes",
                ));
            }
            Read::End => {
                return Err(reader.refused(
                    "is empty, expected a header and rows",
                    "give a file with rows",
                ));
            }
        };
        for (index, cell) in cells.into_iter().enumerate() {
            let name = String::from_utf8(piece.bytes[cell].to_vec());
            let name = name.map_err(|error| {
                reader.refused(&format!("has a header that is not UTF-8: {error}"), RECODE)
            })?;
            let name = if name.is_empty() {
                format!("Unnamed: {index}")
            } else {
                name
            };
            if name.contains('\0') {
                return Err(reader.refused(
                    "has a NUL byte in its header: it is no text",
                    "give a table of text",
                ));
            }
            if reader.header.contains(&name) {
                let reason = format!("has the column `{name}` twice in its header");
                return Err(reader.refused(&reason, "rename one of them"));
            }
            reader.header.push(name);
        }
        Ok(reader)
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn into_stream(self) -> Stream {
        self.stream
    }

    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// Returns the separator in words, if it is not a comma.
    pub fn separator_note(&self) -> Option<String> {
        match self.separator {
            b',' => None,
            b'\t' => Some("its cells are separated by tabs".into()),
            sign => Some(format!("its cells are separated by `{}`", sign as char)),
        }
    }

    /// Returns the number of rows over several lines in words, if there are any: some programs
    /// write tables in which a quote is a character like any other.
    pub fn long_rows_note(&self) -> Option<String> {
        let rows = counted(self.long_rows as usize, "row");
        (self.long_rows > 0).then(|| {
            format!(
                "{rows} with line breaks within quotes, the first in line {}",
                self.first_long_row
            )
        })
    }

    /// Returns the next rows; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_piece(&mut self) -> Result<Option<RecordBlock>, ConvertError> {
        let mut piece = RecordBlock::default();
        while !piece.is_full() {
            match self.read(&mut piece)? {
                Read::Record { line, cells } => piece.records.push(Record {
                    line,
                    content: Content::Cells(cells),
                }),
                Read::TooLong { line } => {
                    let reason = format!(
                        "a row of more than {MAX_ROW_BYTES} bytes from here on: probably a quote \
                        is not closed, and the rest of the file is in it"
                    );
                    piece.records.push(Record {
                        line,
                        content: Content::Broken(reason),
                    });
                    self.is_done = true;
                }
                Read::Glued { line } => piece.records.push(Record {
                    line,
                    content: Content::Broken(GLUED.to_owned()),
                }),
                Read::End => break,
            }
        }
        Ok((!piece.records.is_empty()).then_some(piece))
    }

    fn read(&mut self, piece: &mut RecordBlock) -> Result<Read, ConvertError> {
        if self.is_done {
            return Ok(Read::End);
        }
        let (start, mut output, mut ends, mut count) =
            (piece.bytes.len(), vec![0; 1024], vec![0; 16], 0);
        let (mut written, mut has_begun, mut line) = (0, false, self.parser.line());
        let mut quotes = Some(Quotes::START);
        loop {
            let buffer = self.stream.buffer()?;
            let is_end = buffer.is_empty();
            // A line end closes a last row without one; within a quote it does not.
            let input = if is_end { &b"\n"[..] } else { buffer };
            if !has_begun {
                line += input
                    .iter()
                    .take_while(|byte| b"\r\n".contains(byte))
                    .filter(|byte| **byte == b'\n')
                    .count() as u64;
            }
            let (result, used, bytes, found) =
                self.parser
                    .read_record(input, &mut output[written..], &mut ends[count..]);
            has_begun |= input[..used].iter().any(|byte| !b"\r\n".contains(byte));
            quotes = quotes.and_then(|quotes| quotes.after(&input[..used], self.separator));
            (written, count) = (written + bytes, count + found);
            if !is_end {
                self.stream.consume(used);
            }
            match result {
                ReadRecordResult::Record => break,
                ReadRecordResult::OutputFull => output.resize(output.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => ends.resize(ends.len() * 2, 0),
                ReadRecordResult::InputEmpty if !is_end => {}
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {
                    self.is_done = true;
                    if !has_begun {
                        return Ok(Read::End);
                    }
                    let reason = "a quote that is opened in this row is not closed up to the end \
                        of the file"
                        .to_owned();
                    piece.records.push(Record {
                        line,
                        content: Content::Broken(reason),
                    });
                    return Ok(Read::End);
                }
            }
            if written > MAX_ROW_BYTES || count > MAX_COLUMNS {
                self.is_done = true;
                return Ok(Read::TooLong { line });
            }
        }
        if quotes.is_none() {
            return Ok(Read::Glued { line });
        }
        if self.parser.line() > line + 1 {
            self.long_rows += 1;
            self.first_long_row = match self.long_rows {
                1 => line,
                _ => self.first_long_row,
            };
        }
        piece.bytes.extend_from_slice(&output[..written]);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let cells = starts
            .zip(&ends[..count])
            .map(|(from, to)| start + from..start + to)
            .collect();
        Ok(Read::Record { line, cells })
    }

    fn refused(&self, reason: &str, hint: &str) -> ConvertError {
        ConvertError::source(self.stream.path(), reason, hint)
    }
}

pub(super) const RECODE: &str = "convert it first, such as `iconv -f WINDOWS-1252 -t UTF-8 IN > \
    OUT`";

/// Returns the separator that a first line `sep=;` states, as Excel reads and writes it, and the
/// number of bytes of that line.
fn said_separator(head: &[u8]) -> (usize, Option<u8>) {
    let mark = head.len() - head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).len();
    let line = |end: &[u8]| match head[mark..].strip_prefix(b"sep=")? {
        [sign, rest @ ..] if rest.starts_with(end) => Some((mark + 5 + end.len(), Some(*sign))),
        _ => None,
    };
    line(b"\r\n").or_else(|| line(b"\n")).unwrap_or_default()
}

/// Returns the separator that is most frequent in the header; the first one in [`SEPARATORS`] on a
/// tie.
fn common_separator(head: &[u8]) -> u8 {
    let mut in_quotes = false;
    let mut counts = [0_usize; SEPARATORS.len()];
    for byte in head {
        match byte {
            b'"' => in_quotes = !in_quotes,
            b'\n' | b'\r' if !in_quotes => break,
            _ if in_quotes => {}
            byte => SEPARATORS
                .iter()
                .zip(&mut counts)
                .for_each(|(sign, count)| *count += usize::from(sign == byte)),
        }
    }
    let most = counts.iter().max().copied().unwrap_or_default();
    SEPARATORS
        .into_iter()
        .zip(counts)
        .find(|(_, count)| *count == most)
        .map_or(b',', |(sign, _)| sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Vec<(u64, Vec<String>)>, ConvertError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.csv");
        std::fs::write(&path, content).expect("written");
        let mut reader = DelimitedReader::new(Stream::open(&path)?, None)?;
        let mut rows = vec![(0, reader.header().to_vec())];
        while let Some(piece) = reader.next_piece()? {
            for record in &piece.records {
                let text = |range: &Range<usize>| {
                    String::from_utf8_lossy(&piece.bytes[range.clone()]).into_owned()
                };
                rows.push(match &record.content {
                    Content::Cells(cells) => (record.line, cells.iter().map(text).collect()),
                    Content::Broken(reason) => (record.line, vec![reason.clone()]),
                    Content::Json(_) => unreachable!("a table has cells"),
                });
            }
        }
        Ok(rows)
    }

    #[test]
    fn cells_with_quotes_commas_and_line_breaks_are_whole() {
        let row = |line, cells: &[&str]| {
            (
                line,
                cells
                    .iter()
                    .map(|cell| (*cell).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        for end in ["\n", "\r\n"] {
            let text =
                "q,a\n\"one, \"\"two\"\"\",\"line 1\nline 2\"\n\nx,\ny,\"last\"".replace('\n', end);
            let broken = format!("line 1{end}line 2");
            let expected = vec![
                row(0, &["q", "a"]),
                row(2, &["one, \"two\"", &broken]),
                row(5, &["x", ""]),
                row(6, &["y", "last"]),
            ];
            assert_eq!(read(text.as_bytes()).expect("read"), expected);
        }
        let tabs = vec![row(0, &["q;1", "a"]), row(2, &["1,2,3", "4"])];
        assert_eq!(
            read(b"q;1\ta\n1,2,3\t4\n")
                .map_err(|error| error.to_string())
                .expect("read")[0]
                .1
                .len(),
            2
        );
        assert_eq!(read(b"\"q;1\"\ta\n1,2,3\t4\n").expect("read"), tabs);
        assert_eq!(
            read(b"Frage;Antwort\na, b;c\n").expect("read")[1],
            row(2, &["a, b", "c"])
        );
        assert_eq!(
            read(b",q\n0,x\n").expect("read")[0],
            row(0, &["Unnamed: 0", "q"])
        );
        let long = "x".repeat(300_000);
        assert_eq!(
            read(format!("a,b\n{long},\"{long}\"\n1,2").as_bytes()).expect("read")[1].1,
            [long.clone(), long]
        );
    }

    #[test]
    fn a_cell_that_continues_after_its_quotes_is_a_wrong_row() {
        for cell in ["\"hello\" said he", "\"c\"d", "\"x\\\"y\"", "\"a\" "] {
            let rows = read(format!("a,b\n1,{cell}\n2,\"3\"\n").as_bytes()).expect("read");
            assert_eq!(rows[1], (2, vec![GLUED.to_owned()]), "{cell}");
            assert_eq!(rows[2], (3, vec!["2".to_owned(), "3".to_owned()]), "{cell}");
        }
        for cell in [
            "he said \"hello\"",
            "a\"b",
            "\"\"",
            "\"\"\"a\"\"\"",
            "\"a\r\nb\"",
        ] {
            let rows = read(format!("a,b\n1,{cell}\n2,3").as_bytes()).expect("read");
            assert_eq!((rows.len(), rows[1].1.len()), (3, 2), "{cell}");
        }
        let error = read(b"a,\"b\"c\n1,2\n")
            .expect_err("the header")
            .to_string();
        assert!(error.contains("after its closing quote"), "{error}");
    }

    #[test]
    fn ragged_rows_keep_their_cells_and_open_quotes_are_told() {
        let rows = read(b"a,b\n1\n1,2,3\n").expect("read");
        assert_eq!((rows[1].1.len(), rows[2].1.len()), (1, 3));
        for open in ["a,b\n1,2\n3,\"4\n5,6\n", "a,b\n1,2\n3,\""] {
            let rows = read(open.as_bytes()).expect("read");
            assert_eq!(rows.len(), 3, "{rows:?}");
            assert_eq!(rows[2].0, 3);
            assert!(
                rows[2].1[0].starts_with("a quote that is opened in this row is not closed"),
                "{rows:?}"
            );
        }
        for (content, part) in [
            ("", "is empty"),
            ("a,a\n1,2\n", "has the column `a` twice"),
            ("a\0\n", "NUL"),
        ] {
            assert!(
                read(content.as_bytes())
                    .expect_err(content)
                    .to_string()
                    .contains(part),
                "{content}"
            );
        }
        assert!(
            read(b"a\xff,b\n")
                .expect_err("bytes")
                .to_string()
                .contains("has a header that is not UTF-8")
        );
        assert_eq!(read(b"a,b\n").expect("read").len(), 1);
    }
}
