//! Recognition of a dataset's format by its columns, whatever their names.

use std::collections::BTreeMap;

use crate::cli::Failure;
use crate::data::convert::{Reading, data_files};
use crate::data::{columns, find_files, guessed, inspect};
use crate::fault::{Exit, Fault};
use crate::files::{RowCache, cache_folder};
use crate::hub::DatasetPath;
use crate::plan::cached_files;
use crate::report::{Event, Terminal};
use crate::terms::Format;

/// A dataset whose columns were examined.
pub(super) struct Set {
    pub path: String,
    pub format: Format,
    /// Column names of the format with those of the file, where they differ.
    pub columns: BTreeMap<String, String>,
    pub rows: u64,
}

/// Examines the columns of the files at a path.
pub(super) fn look(path: &str, terminal: &Terminal) -> Result<Set, Failure> {
    let (none, cache) = (BTreeMap::new(), RowCache::from(&cache_folder()));
    let reading = Reading {
        format: None,
        columns: &none,
    };
    let paths = if DatasetPath::is_one(path) {
        cached_files(path)?
    } else {
        find_files(path)?
    };
    // What is noted here is noted again of the recipe.
    let report = |event: Event| match event {
        Event::Note(_) => {}
        event => terminal.take(&event),
    };
    let files = data_files(&paths, reading, &cache, &report)?;
    terminal.stop();
    let Some((format, columns)) = guessed(&files)? else {
        let names = columns(&files[0])?.0;
        let listed: Vec<String> = names
            .iter()
            .take(20)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let fault = Fault::new(format!(
            "`{path}` has the columns {}, which are of no format that is known",
            listed.join(", ")
        ));
        let hint = "expected `messages`; `instruction` and `output`; `prompt` and `completion`; or \
            `text`";
        return Err(Failure::new(Exit::Input, fault.hint(hint)));
    };
    let rows = files
        .iter()
        .map(|file| inspect(file, format, &columns))
        .sum::<Result<u64, _>>()?;
    Ok(Set {
        path: path.to_owned(),
        format,
        columns,
        rows,
    })
}
