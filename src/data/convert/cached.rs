//! Rows that a recipe names in another form than Parquet: converted once, row for row, into the cache, and read from there.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::super::cells::Kind;
use super::super::{format, parquet, source};
use super::error::Error;
use super::inputs::{Form, Input, find};
use super::layout::Naming;
use super::names::{Proposal, propose};
use super::walk::{Dropped, Work};
use super::{Job, license_of, survey};
use crate::files::{self, hash_bytes, hash_file, open_file, remove_leftovers};
use crate::report::{Event, Reporter};
use crate::terms::Format;

/// Goes up when rows are written in another way than before.
const VERSION: u32 = 1;
/// Nobody converts a file for so long.
const LEFTOVER: Duration = Duration::from_hours(24);

/// The Parquet files in the cache of those files of a dataset that are no Parquet.
#[derive(Debug, Default)]
pub struct Tables(pub BTreeMap<PathBuf, PathBuf>);

impl Tables {
    /// The files that a recipe's path stands for. In a folder without Parquet they are those of other tables.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn find(path: &str) -> Result<Vec<PathBuf>, source::Error> {
        source::find_files(path).or_else(|error| {
            let folder = Path::new(path);
            let found =
                if folder.is_dir() { find(&[folder.to_owned()], &mut Vec::new()).unwrap_or_default() } else { Vec::new() };
            let tables: Vec<PathBuf> = found.into_iter().filter(|input| input.form.is_table()).map(|input| input.path).collect();
            if tables.is_empty() { Err(error) } else { Ok(tables) }
        })
    }

    /// Those of the files that are no Parquet, converted into the cache.
    ///
    /// # Errors
    /// A row is wrong, a file cannot be read, or the cache cannot be written.
    pub fn of(
        files: &[PathBuf],
        format: Format,
        columns: &BTreeMap<String, String>,
        cache: &Path,
        report: Reporter,
    ) -> Result<Self, Error> {
        let others = files.iter().filter(|file| is_table(file));
        let each = others.map(|file| Ok::<_, Error>((file.clone(), converted(file, format, columns, cache, report)?)));
        each.collect::<Result<_, _>>().map(Self)
    }

    /// An error about one of the converted files as one about its source.
    pub fn of_source(&self, error: parquet::Error) -> parquet::Error {
        let source = |path: PathBuf| {
            let converted = self.0.iter().find(|(_, table)| **table == path);
            converted.map_or(path, |(source, _)| source.clone())
        };
        match error {
            parquet::Error::Missing { path, canonical, name, found, candidate } => {
                parquet::Error::Missing { path: source(path), canonical, name, found, candidate }
            }
            parquet::Error::Unusable { path, name, found, expected } => {
                parquet::Error::Unusable { path: source(path), name, found, expected }
            }
            other => other,
        }
    }
}

/// Whether a file has rows and is no Parquet, whatever its name.
fn is_table(path: &Path) -> bool {
    let is_parquet = || {
        let mut head = Vec::new();
        open_file(path).is_ok_and(|file| file.take(4).read_to_end(&mut head).is_ok()) && head == *b"PAR1"
    };
    Form::of_name(path).is_some_and(Form::is_table) && !is_parquet()
}

fn converted(
    file: &Path,
    format: Format,
    columns: &BTreeMap<String, String>,
    cache: &Path,
    report: Reporter,
) -> Result<PathBuf, Error> {
    let wanted = format::wanted(format, columns);
    let kinds: BTreeMap<String, Kind> = wanted.into_iter().map(|column| (column.name, column.kind)).collect();
    let parts = (VERSION, env!("CARGO_PKG_VERSION"), hash_file(file)?.to_string(), &kinds);
    let key = hash_bytes(format!("{parts:?}").as_bytes()).to_string();
    let table = cache.join(format!("{}.parquet", &key[..32]));
    if parquet::columns(&table).is_ok() {
        return Ok(table);
    }
    let inputs = find(&[file.to_owned()], &mut Vec::new())?;
    files::create_folder(cache)?;
    let _ = remove_leftovers(&[cache], LEFTOVER);
    let naming = Naming::Kept(kinds);
    let job = Job { inputs: &inputs, out: &table, naming: &naming, max_dropped: 0, license: license_of(&inputs) };
    let done = files::guarded(|| job.run(&AtomicBool::new(false), report));
    let done = done.map_err(|said| super::internal(&table, said))??;
    done.notes.into_iter().for_each(|note| report(Event::Note(note)));
    Ok(table)
}

/// The format and the columns that the rows of a file suggest; `None` where they suggest none, or cannot be read.
pub fn see(path: &Path, asked: Option<Format>) -> Option<Proposal> {
    let none = BTreeMap::new();
    if !is_table(path) {
        return propose(&parquet::schema(path).ok()?, asked, &none);
    }
    let inputs: Vec<Input> = find(&[path.to_owned()], &mut Vec::new()).ok()?;
    let stop = AtomicBool::new(false);
    let found = files::guarded(|| survey(&Work::new(&inputs, 1, &stop, &|_| {}), &mut Dropped::new(0))).ok()?.ok()?;
    let columns: Vec<_> = found.fields.fields.iter().map(|field| (field.name.clone(), field.holds())).collect();
    propose(&columns, asked, &none)
}
