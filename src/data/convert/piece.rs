//! Blocks of raw records of a source, which a pass holds in memory one at a time.

use std::ops::Range;

use serde_json::Value;

use super::json;
use super::row::{Row, Wrong};

/// Approximate bytes of a block.
pub(super) const PIECE_BYTES: usize = 4 << 20;
/// Maximum bytes of a record. Its values take thirty times as much while it is read.
pub(super) const MAX_ROW_BYTES: usize = 16 << 20;
/// Maximum number of records in a unit, and bytes after which it ends earlier.
const UNIT_ROWS: usize = 256;
const UNIT_BYTES: usize = 256 << 10;

/// A block of consecutive records.
#[derive(Debug, Default)]
pub(super) struct RecordBlock {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// The place of each record.
    pub records: Vec<Record>,
}

/// One record of a source.
#[derive(Debug)]
pub(super) struct Record {
    /// The line in which it starts, from 1.
    pub line: u64,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A JSON value.
    Json(Range<usize>),
    /// A cell for each column of the header.
    Cells(Vec<Range<usize>>),
    /// A record that could not be split; the reason.
    Broken(String),
}

impl RecordBlock {
    /// Whether the block is full.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PIECE_BYTES
    }

    /// Returns the units of records that are processed together. The units depend on the source
    /// alone, so that the result does too.
    pub fn units(&self) -> Vec<&[Record]> {
        let (mut units, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (index, record) in self.records.iter().enumerate() {
            bytes += record.len();
            if index + 1 - start == UNIT_ROWS || bytes >= UNIT_BYTES {
                units.push(&self.records[start..=index]);
                (start, bytes) = (index + 1, 0);
            }
        }
        units.extend((start < self.records.len()).then(|| &self.records[start..]));
        units
    }

    /// Converts a record to a row; cells take their names from the header.
    ///
    /// # Errors
    /// The record is not a row.
    pub fn row(&self, record: &Record, header: &[String]) -> Result<Row, Wrong> {
        let wrong = |reason: String| Wrong {
            line: record.line,
            column: None,
            reason,
        };
        match &record.content {
            Content::Json(range) => json::row(&self.bytes[range.clone()], record.line),
            Content::Broken(reason) => Err(wrong(reason.clone())),
            Content::Cells(cells) if cells.len() != header.len() => Err(wrong(format!(
                "{}, the header has {}",
                counted(cells.len(), "cell"),
                header.len()
            ))),
            Content::Cells(cells) => {
                let cell = |(range, name): (&Range<usize>, &String)| {
                    let text = str::from_utf8(&self.bytes[range.clone()]);
                    let text = text
                        .map_err(|error| wrong(format!("column `{name}` is not UTF-8: {error}")))?;
                    if text.contains('\0') {
                        return Err(wrong(format!(
                            "column `{name}` has a NUL byte: it is no text"
                        )));
                    }
                    Ok((name.clone(), Value::from(text)))
                };
                cells.iter().zip(header).map(cell).collect()
            }
        }
    }
}

impl Record {
    /// Returns the number of its bytes.
    pub fn len(&self) -> usize {
        match &self.content {
            Content::Json(range) => range.len(),
            Content::Cells(cells) => cells.iter().map(|cell| cell.len()).sum(),
            Content::Broken(_) => 0,
        }
    }
}

/// Formats a count with its noun: `1 cell`, `2 cells`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Processes units on all cores and returns the results in order. The pool of the run does not
/// exist yet, because the recipe chooses its number of threads.
pub(super) fn in_parallel<U: Sync, T: Send>(units: &[U], work: impl Fn(&U) -> T + Sync) -> Vec<T> {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    let threads = std::thread::available_parallelism()
        .map_or(1, |cores| cores.get())
        .min(units.len());
    if threads < 2 {
        return units.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(unit) = units.get(index) else {
                return done;
            };
            done.push((index, work(unit)));
        }
    };
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        workers
            .into_iter()
            .flat_map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
