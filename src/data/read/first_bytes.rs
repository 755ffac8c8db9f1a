//! The kind of a file that is not Parquet, by its first bytes: a user who brings JSON Lines does
//! not have a damaged Parquet file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::fault::shell_word;

/// Number of bytes that are inspected.
const HEAD_BYTES: u64 = 1 << 16;

/// Kind of a file that may hold data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// One JSON value per line.
    JsonLines,
    /// A file that is one JSON value, such as an array of rows.
    Json,
    /// Values with commas or semicolons between them.
    Csv,
    /// Values with tabs between them.
    Tsv,
    /// Text of no known form.
    Text,
    /// Text in UTF-16.
    Utf16,
    /// A web page, in place of the file that was to be downloaded.
    Page,
    /// A Git LFS pointer in place of a large file.
    GitPointer,
    /// A file compressed with gzip.
    Gzip,
    /// A file compressed with Zstandard.
    Zstd,
    /// A ZIP archive, such as an office file.
    Zip,
    /// An Arrow IPC file, which is also the Feather format.
    Arrow,
    /// An ORC file.
    Orc,
    /// An Avro file.
    Avro,
    /// An `SQLite` database.
    Sqlite,
    /// A PDF document.
    Pdf,
    /// A Python pickle.
    Pickle,
    /// A GGUF model.
    Gguf,
}

/// First bytes that identify a kind.
const MAGIC: [(&[u8], Content); 14] = [
    (b"\x1f\x8b", Content::Gzip),
    (b"\x28\xb5\x2f\xfd", Content::Zstd),
    (b"PK\x03\x04", Content::Zip),
    (b"ARROW1", Content::Arrow),
    (b"FEA1", Content::Arrow),
    (b"\xff\xff\xff\xff", Content::Arrow),
    (b"ORC", Content::Orc),
    (b"Obj\x01", Content::Avro),
    (b"SQLite format 3\0", Content::Sqlite),
    (b"%PDF-", Content::Pdf),
    (b"\x80\x04\x95", Content::Pickle),
    (b"GGUF", Content::Gguf),
    (b"\xff\xfe", Content::Utf16),
    (b"\xfe\xff", Content::Utf16),
];

/// Whether a file begins as a Parquet file does.
pub fn is_parquet(path: &Path) -> bool {
    let mut head = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut head))
        .is_ok()
        && head == *b"PAR1"
}

impl Content {
    /// Returns the kind of a file; `None` if it begins like a Parquet file, is empty, cannot be
    /// read, or is of no known kind.
    pub fn of(path: &Path) -> Option<Self> {
        let mut head = Vec::new();
        File::open(path)
            .ok()?
            .take(HEAD_BYTES)
            .read_to_end(&mut head)
            .ok()?;
        Self::of_head(&head, path)
    }

    /// Whether it is a text format that rows can be read from.
    pub fn has_rows(self) -> bool {
        matches!(self, Self::JsonLines | Self::Json | Self::Csv | Self::Tsv)
    }

    fn of_head(head: &[u8], path: &Path) -> Option<Self> {
        // A file that was cut early begins with a part of the mark.
        if head.is_empty()
            || [b"PAR1", b"PARE"]
                .iter()
                .any(|mark| head.starts_with(*mark) || mark.starts_with(head))
        {
            return None;
        }
        if let Some((_, content)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Some(*content);
        }
        // The last character may be cut.
        let text = match str::from_utf8(head) {
            Ok(text) => text,
            Err(error) if error.error_len().is_none() => {
                str::from_utf8(&head[..error.valid_up_to()]).ok()?
            }
            Err(_) => return None,
        };
        let is_text = !text
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}'));
        is_text.then(|| of_text(text.trim_start_matches('\u{feff}'), path))
    }

    /// Returns the kind in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::JsonLines => "JSON Lines",
            Self::Json => "JSON",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::Text => "text",
            Self::Utf16 => "text in UTF-16",
            Self::Page => "a page of HTML",
            Self::GitPointer => "a pointer of Git LFS",
            Self::Gzip => "packed by gzip",
            Self::Zstd => "packed by Zstandard",
            Self::Zip => "a ZIP archive",
            Self::Arrow => "an Arrow (Feather) file",
            Self::Orc => "an ORC file",
            Self::Avro => "an Avro file",
            Self::Sqlite => "a SQLite database",
            Self::Pdf => "a PDF document",
            Self::Pickle => "a pickle",
            Self::Gguf => "a GGUF model",
        }
    }

    /// Returns the way to turn such a file into a Parquet file.
    pub fn hint(self, path: &Path) -> String {
        let file = shell_word(&path.display().to_string());
        let mut out = path.to_owned();
        if ends_with(path, &["gz", "zst", "zstd"]) {
            out.set_extension("");
        }
        if out.extension().is_some_and(|end| end == "parquet") {
            out.set_extension("converted.parquet");
        } else {
            out.set_extension("parquet");
        }
        let convert = format!(
            "`rankine convert {file} --out {}`",
            shell_word(&out.display().to_string())
        );
        match self {
            Self::JsonLines | Self::Json => format!("{convert} makes a Parquet file of it"),
            Self::Csv | Self::Tsv => format!(
                "{convert} makes a Parquet file of it; with `--format chat --columns \
                prompt=COLUMN,completion=COLUMN` two of its columns become a conversation"
            ),
            Self::Gzip | Self::Zstd if ends_with(path, &["gz", "zst", "zstd"]) => {
                format!("{convert} makes a Parquet file of it, if it holds JSON Lines, JSON or CSV")
            }
            Self::Gzip | Self::Zstd => format!(
                "unpack it; of JSON Lines, JSON or CSV `rankine convert FILE --out {}` makes a \
                Parquet file",
                shell_word(&out.display().to_string())
            ),
            Self::Text if ends_with(path, &["txt", "md", "text"]) => format!(
                "{convert} makes one row of the whole text; for more, bring it into JSON Lines, \
                one `{{\"text\": ..}}` a line, or into a folder of texts"
            ),
            Self::Text => {
                format!(
                    "bring it into JSON Lines, one `{{\"text\": ..}}` a line; then {convert} \
                    makes a Parquet file of it"
                )
            }
            Self::Utf16 => format!(
                "save it as UTF-8; of JSON Lines, JSON or CSV {convert} makes a Parquet file"
            ),
            Self::Page => {
                "download it again: a server answered with a page, such as one that asks to log in"
                    .to_owned()
            }
            Self::GitPointer => "fetch the file itself with `git lfs pull`".to_owned(),
            Self::Gguf => "a model is named in `base_model`, as a Hugging Face folder".to_owned(),
            Self::Pickle => "a pickle can run code and is not read: write the rows as Parquet, \
                JSON Lines or CSV"
                .to_owned(),
            Self::Zip | Self::Arrow | Self::Orc | Self::Avro | Self::Sqlite | Self::Pdf => {
                "write its rows as Parquet, JSON Lines or CSV; `rankine convert FILE --out \
                FILE.parquet` takes the latter two"
                    .to_owned()
            }
        }
    }
}

fn ends_with(path: &Path, endings: &[&str]) -> bool {
    path.extension()
        .is_some_and(|of| endings.iter().any(|end| of.eq_ignore_ascii_case(end)))
}

fn of_text(text: &str, path: &Path) -> Content {
    let start = text.trim_start();
    let head: String = start
        .chars()
        .take(16)
        .collect::<String>()
        .to_ascii_lowercase();
    if head.starts_with("<!doctype") || head.starts_with("<html") {
        return Content::Page;
    }
    if start.starts_with("version https://git-lfs") {
        return Content::GitPointer;
    }
    let ends = |end: &str| {
        path.extension()
            .is_some_and(|of| of.eq_ignore_ascii_case(end))
    };
    let mut lines = start.lines().filter(|line| !line.trim().is_empty());
    let (first, second) = (lines.next().unwrap_or_default(), lines.next());
    match start.chars().next() {
        Some('{') => {
            let is_whole = serde_json::from_str::<serde_json::Value>(first).is_ok();
            let is_cut = second.is_none() && first.len() as u64 >= HEAD_BYTES / 2;
            let is_lines = (is_whole && (second.is_some() || ends("jsonl") || ends("ndjson")))
                || (is_cut && !ends("json"));
            return if is_lines {
                Content::JsonLines
            } else {
                Content::Json
            };
        }
        Some('[') => return Content::Json,
        _ => {}
    }
    match () {
        () if ends("csv") => Content::Csv,
        () if ends("tsv") => Content::Tsv,
        () => separated(first, second).unwrap_or(Content::Text),
    }
}

/// Whether the first two lines look like rows of a table.
fn separated(first: &str, second: Option<&str>) -> Option<Content> {
    let second = second?;
    let is_row = |separator: char| {
        let of_head = first.matches(separator).count();
        of_head > 0 && second.matches(separator).count() >= of_head
    };
    match () {
        () if is_row('\t') => Some(Content::Tsv),
        () if is_row(',') || is_row(';') => Some(Content::Csv),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes_and_not_by_its_name() {
        for (head, name, expected) in [
            (&b"PAR1xyz"[..], "x.csv", None),
            (b"", "x.jsonl", None),
            (
                b"{\"a\": 1}\n{\"a\": 2}\n",
                "x.parquet",
                Some(Content::JsonLines),
            ),
            (
                b"\xef\xbb\xbf{\"a\": 1}\n{\"a\": 2}\n",
                "x",
                Some(Content::JsonLines),
            ),
            (b"{\"a\": 1}", "x.jsonl", Some(Content::JsonLines)),
            (b"{\n  \"data\": []\n}", "x.parquet", Some(Content::Json)),
            (b"  [{\"a\": 1}]", "x.parquet", Some(Content::Json)),
            (b"a,b\n1,\"x, y\"\n", "x.parquet", Some(Content::Csv)),
            (b"a;b\n1;2\n", "x.parquet", Some(Content::Csv)),
            (b"a\tb\n1\t2\n", "x.parquet", Some(Content::Tsv)),
            (b"text\nhello\n", "x.csv", Some(Content::Csv)),
            (b"text\nhello\n", "x.parquet", Some(Content::Text)),
            (b"<!DOCTYPE html><html>", "x.parquet", Some(Content::Page)),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
                "x.parquet",
                Some(Content::GitPointer),
            ),
            (b"\x1f\x8b\x08\x00", "x.jsonl.gz", Some(Content::Gzip)),
            (b"PK\x03\x04", "x.xlsx", Some(Content::Zip)),
            (b"a\0b", "x.parquet", None),
            ("é".as_bytes(), "x", Some(Content::Text)),
            (&"é".as_bytes()[..1], "x", Some(Content::Text)),
        ] {
            assert_eq!(
                Content::of_head(head, Path::new(name)),
                expected,
                "{name}: {}",
                String::from_utf8_lossy(head)
            );
        }
    }

    #[test]
    fn the_way_to_parquet_writes_over_no_input() {
        let hint = |content: Content, name: &str| content.hint(Path::new(name));
        assert!(
            hint(Content::JsonLines, "law.jsonl")
                .contains("`rankine convert law.jsonl --out law.parquet`")
        );
        assert!(
            hint(Content::Csv, "a b.csv")
                .contains("`rankine convert 'a b.csv' --out 'a b.parquet'`")
        );
        assert!(
            hint(Content::JsonLines, "x.parquet")
                .contains("`rankine convert x.parquet --out x.converted.parquet`")
        );
        assert!(
            hint(Content::Gzip, "x.jsonl.gz").contains("--out x.parquet`"),
            "{}",
            hint(Content::Gzip, "x.jsonl.gz")
        );
    }
}
