//! Data files other than Parquet, converted into the cache, once, when a recipe names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::converted::Converted;
use super::error::ConvertError;
use super::inputs::{self, FileForm};
use super::job::{Job, license_of};
use super::layout::Naming;
use crate::data::read::data_file::{DataFile, Keep};
use crate::data::read::first_bytes::{Content, is_parquet};
use crate::files::{self, EntryKind, RowCache, Stamp, hash_bytes, hash_file};
use crate::report::{Event, Reporter};
use crate::terms::{Format, Term};

/// Version of the rows that a conversion writes. Files of another version are converted again.
const VERSION: u32 = 1;

/// Age from which a temporary file of a conversion counts as abandoned, unless it is huge.
const LEFTOVER: Duration = Duration::from_hours(24);

/// Options with which a recipe reads the rows.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Format of the rows, if it is known.
    pub format: Option<Format>,
    /// Map from canonical column names to the names in the file.
    pub columns: &'a BTreeMap<String, String>,
}

/// Opens the data files at these paths. JSON, JSONL, CSV and TSV files (also compressed by gzip or
/// Zstandard) are read from a Parquet file in `cache`, which is made now if it is missing. Columns
/// keep their names, and those that the format reads must hold the kind it reads.
///
/// # Errors
/// A file cannot be read or written, or a row is invalid; the cache may then hold no entry.
pub fn data_files(
    paths: &[PathBuf],
    reading: Reading,
    cache: &RowCache,
    report: Reporter,
) -> Result<Vec<DataFile>, ConvertError> {
    let opened = |path: &PathBuf| {
        if is_convertible(path) {
            converted(path.clone(), reading, cache, report)
        } else {
            Ok(DataFile::from(path.clone()))
        }
    };
    paths.iter().map(opened).collect()
}

/// Whether a file's name and first bytes are those of rows that can be converted.
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

/// Converts into a temporary folder that is deleted when the process ends.
fn temporary(
    path: PathBuf,
    name: &str,
    reading: Reading,
    report: Reporter,
) -> Result<DataFile, ConvertError> {
    let failed = |cause| files::FileError::new("create a folder in", &std::env::temp_dir(), cause);
    let mut builder = tempfile::Builder::new();
    builder.prefix("rankine-");
    #[cfg(unix)]
    let owner_alone = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    #[cfg(unix)]
    builder.permissions(owner_alone);
    let folder = builder.tempdir().map_err(failed)?;
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
        is_private: true,
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
