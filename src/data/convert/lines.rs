//! JSON split into rows: one object per line, or one array of objects. The first character decides
//! which of the two it is.

use serde_json::{Map, Value};

use super::error::ConvertError;
use super::names::is_turns;
use super::piece::{Content, MAX_ROW_BYTES, Record, RecordBlock};
use super::stream::Stream;

/// Position of the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    /// Before the first character.
    Start,
    /// In a file with one object per line.
    Lines,
    /// In the array, before a row.
    Array,
    /// After the array.
    Behind,
}

/// Reader that splits JSON into rows.
pub(super) struct JsonReader {
    stream: Stream,
    place: ReaderState,
    line: u64,
    /// Number of blank lines.
    pub blank: u64,
    /// Whether the name implies one row per line.
    by_lines: bool,
    rows: u64,
}

impl JsonReader {
    pub fn new(stream: Stream, by_lines: bool) -> Self {
        Self {
            stream,
            place: ReaderState::Start,
            line: 1,
            blank: 0,
            by_lines,
            rows: 0,
        }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Returns the next rows; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is not an array of rows.
    pub fn next_piece(&mut self) -> Result<Option<RecordBlock>, ConvertError> {
        let mut piece = RecordBlock::default();
        while !piece.is_full() {
            let goes_on = match self.place {
                ReaderState::Start => self.begin()?,
                ReaderState::Lines => self.take_line(&mut piece)?,
                ReaderState::Array => self.take_element(&mut piece)?,
                ReaderState::Behind => self.check_end()?,
            };
            if !goes_on {
                break;
            }
        }
        self.check_only(&piece)?;
        self.rows += piece.records.len() as u64;
        Ok((!piece.records.is_empty()).then_some(piece))
    }

    fn begin(&mut self) -> Result<bool, ConvertError> {
        let first = self.skip_space()?;
        self.place = match first {
            None => return Ok(false),
            Some(b'[') => {
                self.stream.consume(1);
                ReaderState::Array
            }
            Some(_) => ReaderState::Lines,
        };
        Ok(true)
    }

    /// Skips space and returns the next byte, without consuming it.
    fn skip_space(&mut self) -> Result<Option<u8>, ConvertError> {
        loop {
            let buffer = self.stream.buffer()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let space = buffer
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
            let lines = newlines(&buffer[..space]);
            let next = buffer.get(space).copied();
            self.line += lines;
            self.stream.consume(space);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Reads a line without its end. The part over the limit is dropped.
    fn take_line(&mut self, piece: &mut RecordBlock) -> Result<bool, ConvertError> {
        let (start, mut length, mut is_ended, line) = (piece.bytes.len(), 0, false, self.line);
        while !is_ended {
            let buffer = self.stream.buffer()?;
            if buffer.is_empty() {
                break;
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            let room = MAX_ROW_BYTES.saturating_sub(length);
            piece.bytes.extend_from_slice(&part[..part.len().min(room)]);
            length += part.len();
            is_ended = end.is_some();
            let used = part.len() + usize::from(is_ended);
            self.stream.consume(used);
        }
        if length == 0 && !is_ended {
            return Ok(false);
        }
        self.line += 1;
        if length > MAX_ROW_BYTES {
            piece.bytes.truncate(start);
            let reason = format!("a line of {length} bytes, expected at most {MAX_ROW_BYTES}");
            piece.records.push(Record {
                line,
                content: Content::Broken(reason),
            });
        } else if piece.bytes[start..].iter().all(u8::is_ascii_whitespace) {
            piece.bytes.truncate(start);
            self.blank += 1;
        } else {
            self.check_first(&piece.bytes[start..], line, piece.records.len())?;
            piece.records.push(Record {
                line,
                content: Content::Json(start..piece.bytes.len()),
            });
        }
        Ok(true)
    }

    /// Refuses a file whose first object spans several lines, since such an object is not one row.
    fn check_first(&self, bytes: &[u8], line: u64, before: usize) -> Result<(), ConvertError> {
        if self.by_lines || self.rows > 0 || before > 0 {
            return Ok(());
        }
        match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
            Err(error) if error.is_eof() => Err(self.one_object(&format!(
                "begins with an object that does not end in its line, line {line}"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a file of one object whose values are lists or objects, because its rows are inside
    /// it.
    fn check_only(&mut self, piece: &RecordBlock) -> Result<(), ConvertError> {
        let [
            Record {
                content: Content::Json(range),
                ..
            },
        ] = &piece.records[..]
        else {
            return Ok(());
        };
        let may_be = !self.by_lines && self.rows == 0 && self.place == ReaderState::Lines;
        if !may_be || !self.stream.buffer()?.is_empty() {
            return Ok(());
        }
        let object = serde_json::from_slice::<Map<String, Value>>(&piece.bytes[range.clone()])
            .unwrap_or_default();
        let holds_rows = |(key, value): (&String, &Value)| {
            !is_turns(key)
                && value
                    .as_array()
                    .is_some_and(|list| list.iter().any(Value::is_object))
        };
        let is_of_columns = !object.is_empty()
            && object
                .values()
                .all(|value| value.is_array() || value.is_object());
        if object.iter().any(holds_rows)
            || (is_of_columns && !object.keys().any(|key| is_turns(key)))
        {
            return Err(self.one_object("is one object with lists or objects in it"));
        }
        Ok(())
    }

    fn one_object(&self, found: &str) -> ConvertError {
        let reason = format!("{found}; expected an array of objects, or an object a line");
        ConvertError::source(
            self.stream.path(),
            reason,
            "if its rows are a list in that object, take it out: `jq -c '.KEY[]' IN > OUT.jsonl`",
        )
    }

    /// Reads an element of the array and the comma or bracket after it.
    fn take_element(&mut self, piece: &mut RecordBlock) -> Result<bool, ConvertError> {
        let Some(first) = self.skip_space()? else {
            return Err(self.cut_off(self.line));
        };
        if first == b']' && self.rows == 0 && piece.records.is_empty() {
            self.stream.consume(1);
            self.place = ReaderState::Behind;
            return Ok(true);
        }
        let (start, line) = (piece.bytes.len(), self.line);
        let mut signs = Signs::default();
        loop {
            let buffer = self.stream.buffer()?;
            if buffer.is_empty() {
                return Err(self.cut_off(line));
            }
            let end = buffer.iter().position(|byte| signs.ends_at(*byte));
            let part = &buffer[..end.unwrap_or(buffer.len())];
            piece.bytes.extend_from_slice(part);
            let (lines, used, last) = (
                newlines(part),
                part.len() + usize::from(end.is_some()),
                end.map(|end| buffer[end]),
            );
            self.line += lines;
            self.stream.consume(used);
            if piece.bytes.len() - start > MAX_ROW_BYTES {
                let reason = format!(
                    "has a row of more than {MAX_ROW_BYTES} bytes from line {line} on, or \
                    one that does not end"
                );
                return Err(ConvertError::source(
                    self.stream.path(),
                    reason,
                    "look for a quote or bracket that is not closed there",
                ));
            }
            if let Some(last) = last {
                self.place = if last == b']' {
                    ReaderState::Behind
                } else {
                    ReaderState::Array
                };
                piece.records.push(Record {
                    line,
                    content: Content::Json(start..piece.bytes.len()),
                });
                return Ok(true);
            }
        }
    }

    fn cut_off(&self, line: u64) -> ConvertError {
        let reason = format!("ends within its array, in the row that starts in line {line}");
        ConvertError::source(
            self.stream.path(),
            reason,
            "it is cut off: download or copy it again",
        )
    }

    fn check_end(&mut self) -> Result<bool, ConvertError> {
        if self.skip_space()?.is_none() {
            return Ok(false);
        }
        let reason = format!("goes on behind the end of its array, in line {}", self.line);
        Err(ConvertError::source(
            self.stream.path(),
            reason,
            "give one array of objects, or an object a line",
        ))
    }
}

#[expect(clippy::naive_bytecount, reason = "the compiler makes it as fast")]
fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// State of JSON's punctuation that decides where an element ends.
#[derive(Debug, Default)]
struct Signs {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Signs {
    /// Whether the element ends before this byte.
    fn ends_at(&mut self, byte: u8) -> bool {
        if self.in_string {
            let is_escaped = std::mem::take(&mut self.is_escaped);
            match byte {
                _ if is_escaped => {}
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b',' | b']' if self.depth == 0 => return true,
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Exit, Explain};

    fn read(content: &[u8], by_lines: bool) -> Result<Vec<(u64, String)>, ConvertError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a");
        std::fs::write(&path, content).expect("written");
        let mut reader = JsonReader::new(Stream::open(&path)?, by_lines);
        let mut rows = Vec::new();
        while let Some(piece) = reader.next_piece()? {
            let row = |record: &Record| match &record.content {
                Content::Json(range) => (
                    record.line,
                    String::from_utf8_lossy(&piece.bytes[range.clone()])
                        .trim()
                        .to_owned(),
                ),
                Content::Broken(reason) => (record.line, reason.clone()),
                Content::Cells(_) => unreachable!("JSON has no cells"),
            };
            rows.extend(piece.records.iter().map(row));
        }
        Ok(rows)
    }

    #[test]
    fn lines_and_arrays_give_the_same_rows() {
        let rows = [r#"{"a": "[,]\"}"}"#, r#"{"b": [1, {"c": "\\"}]}"#, "7"];
        let found = |content: String, by_lines| {
            let rows = read(content.as_bytes(), by_lines).expect("read");
            (
                rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
                rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            found(rows.join("\n"), true),
            (vec![1, 2, 3], rows.map(str::to_owned).to_vec())
        );
        assert_eq!(
            found(format!("\n{}\r\n\n\r\n", rows.join("\r\n")), false),
            (vec![2, 3, 4], rows.map(str::to_owned).to_vec())
        );
        assert_eq!(
            found(format!("[{}]", rows.join(",")), false),
            (vec![1, 1, 1], rows.map(str::to_owned).to_vec())
        );
        assert_eq!(
            found(format!("\n[\n{}\n]\n", rows.join(",\n")), true),
            (vec![3, 4, 5], rows.map(str::to_owned).to_vec())
        );
        for empty in ["", " \n", "[]", "[ ]\n"] {
            assert_eq!(found(empty.into(), false).1, [""; 0]);
        }
        assert_eq!(
            read(b"[1,]", false).expect("read")[1].1,
            "",
            "what is not there is no JSON"
        );
    }

    #[test]
    fn what_is_no_array_of_rows_is_refused_as_a_whole() {
        for (content, part) in [
            (
                "[",
                "ends within its array, in the row that starts in line 1",
            ),
            (
                "[{\"a\": 1},\n{\"a\": \"]",
                "ends within its array, in the row that starts in line 2",
            ),
            ("[1] [2]", "goes on behind the end of its array, in line 1"),
            (
                "{\n\"data\": []}",
                "begins with an object that does not end in its line, line 1",
            ),
        ] {
            let error = read(content.as_bytes(), false).expect_err(content);
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit(), Exit::Input);
        }
        assert_eq!(
            read(b"{\n\"data\": []}", true).expect("a line each").len(),
            2
        );
    }

    #[test]
    fn a_line_without_end_costs_no_memory_and_one_row() {
        let mut content = vec![b'x'; MAX_ROW_BYTES + 1];
        content.extend(b"\n{}\n");
        let rows = read(&content, true).expect("read");
        assert_eq!(
            rows[0],
            (
                1,
                "a line of 16777217 bytes, expected at most 16777216".into()
            )
        );
        assert_eq!(rows[1], (2, "{}".into()));
        content[0] = b'[';
        let error = read(&content, false).expect_err("no end").to_string();
        assert!(
            error.contains("has a row of more than 16777216 bytes from line 1 on"),
            "{error}"
        );
    }
}
