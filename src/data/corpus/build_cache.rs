//! Fills the token cache of a data file: its rows are encoded in parallel, a batch at a time. A row
//! that makes no example is kept as the reason; an error that concerns more than one row stops the
//! work.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use indicatif::DecimalBytes;
use rayon::prelude::*;

use super::error::CorpusError;
use super::source::DataSource;
use super::token_cache::{Cache, Writer};
use crate::data::example::encode::Encoder;
use crate::data::example::format::{self, Half, Read};
use crate::data::example::token_row::EncodedRow;
use crate::data::example::told::{self, Told};
use crate::data::example::unread::{Counts, Unread};
use crate::data::read::columns::{column_name, main_column, wanted};
use crate::data::read::data_file::DataFile;
use crate::data::read::error::{RowLocation, TableError};
use crate::data::read::parquet::{Batch, ParquetTable};
use crate::data::visible::visible;
use crate::fault::quoted;
use crate::files::{self, EntryKind, RowCache, Stamp, Taken, panic_words};
use crate::report::{Event, Reporter};
use crate::terms::{RowForm, Term};

/// Maximum number of characters in a reason, because a template may quote a whole row.
const MAX_REASON: usize = 700;

/// Result of encoding a row.
#[derive(Debug, Clone, PartialEq)]
enum Encoded {
    /// Tokens, none where there is nothing to learn, and the contents of the row that are unused.
    Row(EncodedRow, Vec<Unread>),
    /// The reason and the row's place in the file.
    Broken(String),
}

/// A data file with the tokens of its rows.
#[derive(Debug)]
pub struct Opened {
    /// The tokens of the selected rows.
    pub cache: Cache,
    /// Number of the first selected row in the file.
    pub taken_from: u64,
    /// Number of rows in the file.
    pub rows: u64,
    /// Whether an entry was written.
    pub is_new: bool,
}

/// Returns the tokens of the selected rows of one data file, or of all rows if none are selected; of
/// one half of each row if `half` says so. They come from the cache if it has a complete entry.
///
/// # Errors
/// The file cannot be read, a row has an error that other rows share, or the cache cannot be
/// written.
pub fn open(
    file: &DataFile,
    source: &DataSource,
    half: Option<Half>,
    taken: Option<Range<u64>>,
    encoder: &Encoder,
    cache: &RowCache,
    report: Reporter,
) -> Result<Opened, CorpusError> {
    let table = ParquetTable::open(file, &wanted(source.format, &source.columns))?;
    let rows = table.rows();
    let taken = taken
        .map(|taken| taken.start.min(rows)..taken.end.min(rows))
        .filter(|taken| *taken != (0..rows));
    let stamp = stamp(file, source, half, taken.as_ref(), encoder)?;
    let taken = taken.unwrap_or(0..rows);
    let (cache, is_new) = from_cache(file, source, half, &taken, encoder, (cache, stamp), report)?;
    Ok(Opened {
        cache,
        taken_from: taken.start,
        rows,
        is_new,
    })
}

fn from_cache(
    file: &DataFile,
    source: &DataSource,
    half: Option<Half>,
    taken: &Range<u64>,
    encoder: &Encoder,
    (cache, stamp): (&RowCache, Stamp),
    report: Reporter,
) -> Result<(Cache, bool), CorpusError> {
    let tokenize =
        |writer: &mut Writer| tokenize(file, source, half, taken, encoder, writer, report);
    let Some(folder) = cache.folder() else {
        return Ok((make_nameless(cache, stamp, tokenize)?, false));
    };
    let (name, path) = (stamp.name(), folder.join(stamp.name()));
    if path.exists() {
        // Said before it is opened, so that nobody removes it between.
        let lease = files::hold(&folder, &name);
        match Cache::open(&path, &stamp) {
            Ok(cache) => return Ok((cache.named(name, lease), false)),
            Err(reason) => report(Event::Note(format!(
                "the token cache `{}` is made again: {reason}",
                path.display()
            ))),
        }
    }
    let failed = |cause| CorpusError::Cache { cause };
    let folders = cache.prepare().map_err(failed)?;
    let mut writer = Writer::create(&folders[0], stamp).map_err(failed)?;
    tokenize(&mut writer)?;
    let mut made = writer.finish().map_err(failed)?;
    files::give_name(&mut made, &path)
        .map_err(|cause| failed(files::FileError::new("write", &path, cause)))?;
    let lease = files::hold(&folder, &name);
    let opened = Cache::of(&made, &path, &stamp)
        .map_err(|reason| failed(unreadable(&path, reason)))?
        .named(name, lease);
    Ok((opened, true))
}

/// Removes cache entries of older versions and those above the size limit, after entries were
/// written. A run with a thousand files looks through the folder once.
pub fn tidy(cache: &RowCache, report: Reporter) {
    tell_outdated(files::remove_outdated(cache), report);
    if let (RowCache::Shared(_), Ok(limit)) = (cache, files::cache_limit()) {
        tell_limit(files::trim(cache, limit), limit, report);
    }
}

/// Writes the tokens to a file that is deleted when the process ends.
fn make_nameless(
    cache: &RowCache,
    stamp: Stamp,
    tokenize: impl FnOnce(&mut Writer) -> Result<(), CorpusError>,
) -> Result<Cache, CorpusError> {
    let failed = |cause| CorpusError::Cache { cause };
    let folders = cache.prepare().map_err(failed)?;
    let folder = folders
        .iter()
        .find(|folder| tempfile::tempfile_in(folder).is_ok())
        .or(folders.last());
    let folder = folder.expect("a cache without names has a folder for them");
    let mut writer = Writer::create(folder, stamp).map_err(failed)?;
    tokenize(&mut writer)?;
    let made = writer.finish().map_err(failed)?;
    Cache::of(&made, folder, &stamp).map_err(|reason| failed(unreadable(folder, reason)))
}

fn tell_outdated(taken: Taken, report: Reporter) {
    if taken.entries > 0 {
        let (entries, bytes) = (files::entry_count(taken.entries), DecimalBytes(taken.bytes));
        report(Event::Note(format!(
            "token cache: {entries} of an older version of Rankine removed, {bytes}"
        )));
    }
}

fn tell_limit((left, taken): (u64, Taken), limit: u64, report: Reporter) {
    let (limit, left_bytes) = (DecimalBytes(limit), DecimalBytes(left));
    if taken.entries > 0 {
        let (entries, bytes) = (files::entry_count(taken.entries), DecimalBytes(taken.bytes));
        report(Event::Note(format!(
            "token cache: above its limit of {limit} ({}), so {entries}, {bytes}, removed, the \
            least recently used first; {left_bytes} left",
            files::LIMIT
        )));
    }
}

fn unreadable(path: &Path, reason: String) -> files::FileError {
    files::FileError {
        action: "read back",
        path: path.to_owned(),
        cause: std::io::Error::other(reason),
    }
}

/// Returns the identity of the tokens of a file: everything that determines them. The data file is
/// hashed each time, because its date does not prove its content.
fn stamp(
    file: &DataFile,
    source: &DataSource,
    half: Option<Half>,
    taken: Option<&Range<u64>>,
    encoder: &Encoder,
) -> Result<Stamp, CorpusError> {
    let columns = wanted(source.format, &source.columns);
    let is_rendered = format::is_rendered(source.format, &ParquetTable::open(file, &columns)?);
    let template = encoder
        .template
        .as_ref()
        .filter(|_| is_rendered)
        .map(|template| template.identity().to_string());
    let hash = files::hash_file_in_parallel(file.parquet()).map_err(TableError::File)?;
    // Of a file that was converted the cache can be asked by both.
    let source_hash = if file.is_converted() {
        files::hash_file_in_parallel(file.path()).map_err(TableError::File)?
    } else {
        hash
    };
    let parts = (
        hash.to_string(),
        encoder.tokenizer.hash().to_string(),
        template,
        source.format.word(),
        columns
            .into_iter()
            .map(|column| (column.canonical, column.name))
            .collect::<Vec<_>>(),
        source.train_on.word(),
        &source.roles,
        &source.system,
    );
    // Entries of whole files, and of rows without labels, keep the names that they have.
    let taken = taken.map_or_else(String::new, |taken| format!("{taken:?}"));
    let half = half.map_or_else(String::new, |half| format!("{half:?}"));
    let labels = source.labels.as_ref();
    let labels = labels.map_or_else(String::new, |labels| format!("{labels:?}"));
    Ok(Stamp {
        kind: EntryKind::Tokens,
        key: files::hash_bytes(format!("{parts:?}{taken}{half}{labels}").as_bytes()),
        source: source_hash,
    })
}

fn tokenize(
    file: &DataFile,
    source: &DataSource,
    half: Option<Half>,
    taken: &Range<u64>,
    encoder: &Encoder,
    writer: &mut Writer,
    report: Reporter,
) -> Result<(), CorpusError> {
    let table = ParquetTable::open(file, &wanted(source.format, &source.columns))?;
    let what = format!(
        "tokenizing {}",
        file.path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
    );
    let (mut done, mut unread) = (0, Counts::default());
    let total = taken.end - taken.start;
    for (row_group, end) in table.row_groups_until() {
        if taken.is_empty() || row_group.row >= taken.end || end <= taken.start {
            continue;
        }
        for batch in table.read(&row_group)? {
            let batch = batch?;
            let of_batch = batch.part(taken);
            let (first, count) = (of_batch.start, of_batch.len());
            if count == 0 {
                continue;
            }
            let encode = |row| encode_row(source, half, encoder, &batch, first + row);
            for row in encode_rows(count, |row| batch.place(first + row), encode)? {
                let pushed = match row {
                    Encoded::Row(row, of_row) => {
                        unread.add(of_row);
                        writer.push(&row)
                    }
                    Encoded::Broken(reason) => writer.push_broken(&reason),
                };
                pushed.map_err(|cause| CorpusError::Cache { cause })?;
            }
            done += count as u64;
            report(Event::Progress {
                what: what.clone(),
                done,
                total,
            });
        }
    }
    writer.remark(unread.to_text());
    Ok(())
}

/// Encodes the rows of a batch, or returns the error of the first row that has one; a panic counts
/// as an error. Rows after it are not started, because a template that never ends costs time for
/// each.
fn encode_rows(
    rows: usize,
    place: impl Fn(usize) -> RowLocation + Sync,
    encode: impl Fn(usize) -> Result<Encoded, CorpusError> + Sync,
) -> Result<Vec<Encoded>, CorpusError> {
    let failed = AtomicUsize::new(usize::MAX);
    let guarded = |row: usize| {
        if row > failed.load(Relaxed) {
            return Ok(Encoded::Row(EncodedRow::default(), Vec::new()));
        }
        let encoded = catch_unwind(AssertUnwindSafe(|| encode(row)));
        // The words of a panic may hold the text that it was about.
        let panicked = |said: &str| CorpusError::Panicked {
            place: place(row),
            said: quoted(visible(said)),
        };
        encoded
            .unwrap_or_else(|panic| Err(panicked(panic_words(&*panic))))
            .inspect_err(|_| {
                failed.fetch_min(row, Relaxed);
            })
    };
    let rows: Vec<_> = (0..rows).into_par_iter().map(guarded).collect();
    // Looked through in their order, so that it is always the same fault that is told.
    rows.into_iter().collect()
}

fn encode_row(
    source: &DataSource,
    half: Option<Half>,
    encoder: &Encoder,
    batch: &Batch,
    row: usize,
) -> Result<Encoded, CorpusError> {
    let column = || main_column(source.format, &source.columns);
    let told = |cause: &dyn Told| told::words(cause, encoder, source.format, batch, row);
    let broken = |column: &str, cause: &dyn Told| {
        let place = batch.place(row).in_file();
        let reason = format!("{place}, column `{column}`: {}", told(cause));
        Ok(Encoded::Broken(
            visible(&reason).chars().take(MAX_REASON).collect(),
        ))
    };
    let read = if let Some(half) = half {
        format::read_half(half, &source.roles, batch, row)
    } else {
        let labels = source.labels.as_ref();
        format::read(source.format, &source.roles, labels, batch, row)
    };
    let Read {
        example,
        mut unread,
    } = match read {
        Ok(Some(read)) => read.with_system(source.system.as_deref()),
        Ok(None) => {
            return Ok(Encoded::Row(EncodedRow::default(), Vec::new()));
        }
        Err(format::FormatError::Cell(TableError::Cell { column, reason, .. })) => {
            return broken(&column, &reason);
        }
        Err(format::FormatError::Cell(error)) => return Err(error.into()),
        Err(format::FormatError::Content { column, cause }) => {
            return broken(&column_name(column, &source.columns), cause.as_ref());
        }
    };
    let weight = match format::loss_weight(batch, row) {
        Ok(weight) => weight,
        Err(format::FormatError::Content { column, cause }) => {
            return broken(&column_name(column, &source.columns), cause.as_ref());
        }
        Err(format::FormatError::Cell(error)) => return Err(error.into()),
    };
    match encoder.encode_row(&example, source.train_on) {
        Ok(mut tokens) => {
            if weight <= 0.0 {
                tokens.row.trained.fill(false);
            } else if tokens.form == RowForm::Single {
                tokens.form = RowForm::weighted(weight);
            }
            unread.extend(encoder.unread(&example, source.train_on));
            Ok(Encoded::Row(tokens, unread))
        }
        Err(cause) if cause.is_of_the_row() => broken(&column(), &cause),
        Err(cause) => {
            let said = told(&cause);
            Err(CorpusError::Encode {
                place: batch.place(row),
                column: column(),
                said,
                cause: cause.into(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Exit, Explain, revealed, without_data};

    #[test]
    fn a_panic_in_a_worker_names_the_first_row_that_has_one() {
        let place = |row: usize| RowLocation {
            path: "x.parquet".into(),
            row_group: 1,
            row: 40 + row as u64,
            is_converted: false,
        };
        let encode = |row: usize| match row {
            7 | 30 => panic!("slice index {row} \x1b[31m\nsecond line"),
            _ => Ok(Encoded::Row(EncodedRow::default(), Vec::new())),
        };
        for _ in 0..20 {
            let error = encode_rows(64, place, encode).expect_err("a panic");
            let said = error.to_string();
            assert_eq!(
                revealed(&said),
                "`x.parquet`, row group 1, row 47: internal error: slice index 7 ␛[31m"
            );
            assert!(
                !without_data(&said).contains("slice"),
                "a panic may quote the row: {said}"
            );
            assert_eq!(error.exit(), Exit::Internal);
        }
        assert_eq!(encode_rows(7, place, encode).expect("no panic").len(), 7);
    }
}
