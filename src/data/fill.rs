//! Fills the token cache of a data file: its rows are encoded in parallel, a batch at a time. A row that makes no example is kept as
//! its reason; what is wrong with more than the row stops at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

use super::cache::{Cache, Writer};
use super::corpus::Error;
use super::encode::{Encoder, TokenRow};
use super::format;
use super::parquet::{self, Batch, Place, Table};
use super::source::Source;
use super::visible::visible;
use crate::files::{self, Hash, panic_words};
use crate::report::{Event, Reporter};
use crate::terms::{Format, Term};

/// Characters of a reason at most: a template may quote a whole row.
const MAX_REASON: usize = 400;

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Encoded {
    /// Tokens; none where there is nothing to learn.
    Row(TokenRow),
    /// The reason and the row's place in the file.
    Broken(String),
}

/// The tokens of one data file, from the cache if they are there and whole.
///
/// # Errors
/// The file cannot be read, a row has a fault that others share, or the cache cannot be written.
pub fn open(file: &Path, source: &Source, encoder: &Encoder, folder: &Path, report: Reporter) -> Result<Cache, Error> {
    let key = cache_key(file, source, encoder)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let path = folder.join(format!("{stem}-{}.tokens", &key.to_string()[..32]));
    if path.exists() {
        match Cache::open(&path, key) {
            Ok(cache) => return Ok(cache),
            Err(reason) => report(Event::Note(format!("the token cache `{}` is made again: {reason}", path.display()))),
        }
    }
    let mut writer = Writer::create(&path, key).map_err(|cause| Error::Cache { cause })?;
    tokenise(file, source, encoder, &mut writer, report)?;
    writer.finish().map_err(|cause| Error::Cache { cause })?;
    Cache::open(&path, key).map_err(|reason| Error::Cache { cause: unreadable(path, reason) })
}

fn unreadable(path: PathBuf, reason: String) -> files::Error {
    files::Error { action: "read back", path, cause: std::io::Error::other(reason) }
}

/// The identity of the tokens of a file: all that decides them. The data file is hashed each time, because its date is no proof of
/// its content.
fn cache_key(file: &Path, source: &Source, encoder: &Encoder) -> Result<Hash, Error> {
    let template = match source.format {
        Format::Chat => encoder.template.as_ref().map(|template| template.identity().to_string()),
        Format::Text | Format::Completion | Format::Instruction => None,
    };
    let columns = format::wanted(source.format, &source.columns);
    let parts = (
        files::hash_file_in_parallel(source.table(file)).map_err(parquet::Error::File)?.to_string(),
        encoder.tokenizer.hash().to_string(),
        template,
        source.format.word(),
        columns.into_iter().map(|column| (column.canonical, column.name)).collect::<Vec<_>>(),
        source.train_on.word(),
        &source.system,
    );
    Ok(files::hash_bytes(format!("{parts:?}").as_bytes()))
}

fn tokenise(file: &Path, source: &Source, encoder: &Encoder, writer: &mut Writer, report: Reporter) -> Result<(), Error> {
    let table = Table::open(source.table(file), &format::wanted(source.format, &source.columns))?;
    let what = format!("tokenising {}", file.file_name().unwrap_or_default().to_string_lossy());
    let mut done = 0;
    for row_group in table.row_groups() {
        for batch in table.read(&row_group)? {
            let batch = batch?;
            let place = |row| Place { path: file.to_owned(), ..batch.place(row) };
            let encode = |row| encode_row(source, encoder, (&batch, row), &place);
            for row in encode_rows(batch.rows(), place, encode)? {
                let pushed = match row {
                    Encoded::Row(row) => writer.push(&row),
                    Encoded::Broken(reason) => writer.push_broken(&reason),
                };
                pushed.map_err(|cause| Error::Cache { cause })?;
            }
            done += batch.rows() as u64;
            report(Event::Progress { what: what.clone(), done, total: table.rows() });
        }
    }
    Ok(())
}

/// The rows of a batch, or the fault of the first row that has one; a panic is one. Rows behind a fault are not begun: a template
/// without end takes its time for each.
fn encode_rows(
    rows: usize,
    place: impl Fn(usize) -> Place + Sync,
    encode: impl Fn(usize) -> Result<Encoded, Error> + Sync,
) -> Result<Vec<Encoded>, Error> {
    let failed = AtomicUsize::new(usize::MAX);
    let guarded = |row: usize| {
        if row > failed.load(Relaxed) {
            return Ok(Encoded::Row(TokenRow::default()));
        }
        let encoded = catch_unwind(AssertUnwindSafe(|| encode(row)));
        let panicked = |said: &str| Error::Panicked { place: place(row), said: visible(said) };
        encoded.unwrap_or_else(|panic| Err(panicked(panic_words(&*panic)))).inspect_err(|_| {
            failed.fetch_min(row, Relaxed);
        })
    };
    let rows: Vec<_> = (0..rows).into_par_iter().map(guarded).collect();
    // Looked through in their order, so that it is always the same fault that is told.
    rows.into_iter().collect()
}

fn encode_row(
    source: &Source,
    encoder: &Encoder,
    (batch, row): (&Batch, usize),
    place: impl Fn(usize) -> Place,
) -> Result<Encoded, Error> {
    let column = || format::main_column(source.format, &source.columns);
    let broken = |column: &str, cause: &dyn std::fmt::Display| {
        let Place { row_group, row, .. } = batch.place(row);
        let reason = format!("row group {row_group}, row {row}, column `{column}`: {cause}");
        Ok(Encoded::Broken(visible(&reason).chars().take(MAX_REASON).collect()))
    };
    let example = match format::read(source.format, batch, row) {
        Ok(Some(example)) => example.with_system(source.system.as_deref()),
        Ok(None) => return Ok(Encoded::Row(TokenRow::default())),
        Err(format::Error::Cell(parquet::Error::Cell { column, reason, .. })) => return broken(&column, &reason),
        Err(format::Error::Cell(error)) => return Err(error.into()),
        Err(cause) => return broken(&column(), &cause),
    };
    match encoder.encode(&example, source.train_on) {
        Ok(row) => Ok(Encoded::Row(row)),
        Err(cause) if cause.is_of_the_row() => broken(&column(), &cause),
        Err(cause) => Err(Error::Encode { place: place(row), column: column(), cause: cause.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Exit, Explain};

    #[test]
    fn a_panic_in_a_worker_names_the_first_row_that_has_one() {
        let place = |row: usize| Place { path: "x.parquet".into(), row_group: 1, row: 40 + row as u64 };
        let encode = |row: usize| match row {
            7 | 30 => panic!("slice index {row} \x1b[31m\nsecond line"),
            _ => Ok(Encoded::Row(TokenRow::default())),
        };
        for _ in 0..20 {
            let error = encode_rows(64, place, encode).expect_err("a panic");
            assert_eq!(error.to_string(), "`x.parquet`, row group 1, row 47: internal error: slice index 7 ␛[31m");
            assert_eq!(error.exit(), Exit::Internal);
        }
        assert_eq!(encode_rows(7, place, encode).expect("no panic").len(), 7);
    }
}
