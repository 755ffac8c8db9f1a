//! Data files that are no Parquet files, converted where a recipe names them: once, into the cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::super::data_file::{DataFile, Keep};
use super::super::first_bytes::{Content, is_parquet};
use super::inputs::{self, FileForm};
use super::layout::Naming;
use super::{ConvertError, Converted, Job, license_of};
use crate::files::{self, EntryKind, RowCache, Stamp, hash_bytes, hash_file};
use crate::report::{Event, Reporter};
use crate::terms::{Format, Term};

/// Of the rows that a conversion writes. Another version converts again.
const VERSION: u32 = 1;

/// A temporary file of a conversion that is so old has no writer any more, unless its file is huge.
const LEFTOVER: Duration = Duration::from_hours(24);

/// How a recipe reads the rows.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Their format, where it is known.
    pub format: Option<Format>,
    /// Canonical column name to the name in the file.
    pub columns: &'a BTreeMap<String, String>,
}

/// The data files at these paths. Of JSON, JSONL, CSV and TSV (packed by gzip or Zstandard too) the
/// Parquet file in `cache` is read, made now where it is not there. Columns keep their names, and
/// those that the format reads must hold what it reads.
///
/// # Errors
/// A file cannot be read or written, or a row is wrong; the cache may keep nothing.
pub fn data_files(
    paths: Vec<PathBuf>,
    reading: Reading,
    cache: &RowCache,
    report: Reporter,
) -> Result<Vec<DataFile>, ConvertError> {
    paths
        .into_iter()
        .map(|path| {
            if is_convertible(&path) {
                converted(path, reading, cache, report)
            } else {
                Ok(DataFile::from(path))
            }
        })
        .collect()
}

/// Whether a name and the first bytes are those of rows that can be converted.
pub fn is_convertible(path: &Path) -> bool {
    let is_named = matches!(
        FileForm::of_name(path),
        Some(FileForm::Json | FileForm::JsonLines | FileForm::Csv | FileForm::Tsv)
    );
    is_named
        && match Content::of(path) {
            // An empty file, or one that is none of its name; converting tells.
            None => !is_parquet(path),
            Some(Content::Gzip | Content::Zstd | Content::Text | Content::Utf16) => true,
            Some(content) => content.has_rows(),
        }
}

fn converted(
    path: PathBuf,
    reading: Reading,
    cache: &RowCache,
    report: Reporter,
) -> Result<DataFile, ConvertError> {
    let source = hash_file(&path)?;
    let parts = (
        VERSION,
        source.to_string(),
        reading.format.map(Term::word),
        reading.columns,
    );
    let name = Stamp {
        kind: EntryKind::Converted,
        key: hash_bytes(format!("{parts:?}").as_bytes()),
        source,
    }
    .name();
    let Some(folder) = cache.folder() else {
        return temporary(path, &name, reading, report);
    };
    let parquet = folder.join(&name);
    // Said before it is looked for, so that nobody removes it between.
    let lease = files::hold(&folder, &name);
    if parquet.is_file() {
        files::mark_used(&parquet);
        return Ok(DataFile::converted(path, parquet, Keep::Entry(lease)));
    }
    cache.prepare()?;
    files::remove_leftovers(&[&folder], LEFTOVER)?;
    let lease = lease.or_else(|| files::hold(&folder, &name));
    told(
        &path,
        &write(&path, &parquet, reading, report)?,
        "the cache keeps it",
        report,
    );
    Ok(DataFile::converted(path, parquet, Keep::Entry(lease)))
}

/// Converts into a folder that goes with the process.
fn temporary(
    path: PathBuf,
    name: &str,
    reading: Reading,
    report: Reporter,
) -> Result<DataFile, ConvertError> {
    let failed = |cause| files::FileError::new("create a folder in", &std::env::temp_dir(), cause);
    let folder = tempfile::Builder::new()
        .prefix("rankine-")
        .tempdir()
        .map_err(failed)?;
    let parquet = folder.path().join(name);
    told(
        &path,
        &write(&path, &parquet, reading, report)?,
        "removed at the end",
        report,
    );
    Ok(DataFile::converted(
        path,
        parquet,
        Keep::Temporary(Arc::new(folder)),
    ))
}

fn write(
    path: &Path,
    parquet: &Path,
    reading: Reading,
    report: Reporter,
) -> Result<Converted, ConvertError> {
    let mut notes = Vec::new();
    let inputs = inputs::find(std::slice::from_ref(&path.to_owned()), &mut notes)?;
    let naming = Naming {
        format: reading.format,
        columns: reading.columns.clone(),
        keeps_names: true,
    };
    let job = Job {
        inputs: &inputs,
        out: parquet,
        naming: &naming,
        max_dropped: 0,
        license: license_of(&inputs),
    };
    job.run_guarded(&AtomicBool::new(false), report)
}

fn told(path: &Path, converted: &Converted, kept: &str, report: Reporter) {
    let rows = super::piece::counted(converted.rows as usize, "row");
    let (path, bytes) = (path.display(), indicatif::DecimalBytes(converted.bytes));
    report(Event::Note(format!(
        "`{path}`: {rows} converted to Parquet, {bytes}; {kept}"
    )));
    converted
        .notes
        .iter()
        .for_each(|note| report(Event::Note(note.clone())));
}
