//! The data files of a recipe's datasets. The cache holds Parquet copies of files in other formats;
//! missing copies are made here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::PlanError;
use super::output_dir::output_dir;
use crate::data::convert::{ConvertError, Reading, data_files, is_convertible};
use crate::data::{Content, CorpusError, DataFile, SourceError, find_files};
use crate::fault::{Explain, Fault};
use crate::files::{RowCache, cache_folder};
use crate::recipe::{Dataset, Recipe};
use crate::report::Reporter;
use crate::terms::{CacheMode, Format};
use crate::train::RunFolder;

/// The files of a dataset, or the faults of its path or files.
pub(super) type Found = Result<Vec<DataFile>, Vec<Fault>>;

/// Returns the cache of converted data files for a run; `None` if it is not to keep a copy of the
/// data.
pub(super) fn cache(mode: CacheMode, run: &Path) -> Option<RowCache> {
    match mode {
        CacheMode::User => Some(RowCache::from(&cache_folder())),
        CacheMode::Run if run.is_dir() => Some(RowCache::OfRun(run.join(RunFolder::CACHE))),
        // What looks at a recipe that has no run yet leaves nothing behind.
        CacheMode::Run => Some(RowCache::Nameless(Vec::new())),
        CacheMode::None => None,
    }
}

/// Finds the files of a recipe's datasets, in the recipe's order.
///
/// # Errors
/// A file or folder cannot be read or written, which is no fault of the recipe.
pub(super) fn find(
    recipe: &Recipe,
    datasets: &[Dataset],
    report: Reporter,
) -> Result<Vec<Found>, PlanError> {
    let mode = recipe
        .cache
        .as_ref()
        .map_or(CacheMode::User, |said| said.value);
    let cache = cache(mode, &output_dir(recipe));
    let columns_of = |dataset: &Dataset| -> BTreeMap<String, String> {
        dataset
            .columns
            .iter()
            .map(|(name, said)| (name.clone(), said.value.clone()))
            .collect()
    };
    let of_dataset = |dataset: &Dataset| {
        let paths = match (&dataset.files, &dataset.path) {
            (Some(files), _) => files.clone(),
            (None, Some(path)) => match find_files(&path.value) {
                Ok(found) => found,
                Err(SourceError::File(error)) => return Err(error.into()),
                Err(error) => return Ok(Err(error.faults())),
            },
            (None, None) => return Ok(Err(Vec::new())),
        };
        let (format, columns) = (
            dataset.format.as_ref().map(|said| said.value),
            columns_of(dataset),
        );
        readable(paths, format, &columns, cache.as_ref(), report)
    };
    datasets.iter().map(of_dataset).collect()
}

/// Returns the data files at these paths; `cache` is the result of [`cache`].
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn readable(
    paths: Vec<PathBuf>,
    format: Option<Format>,
    columns: &BTreeMap<String, String>,
    cache: Option<&RowCache>,
    report: Reporter,
) -> Result<Found, PlanError> {
    Ok(
        match (cache, paths.iter().find(|path| is_convertible(path))) {
            (_, None) => Ok(paths.into_iter().map(DataFile::from).collect()),
            (Some(cache), Some(_)) => {
                match data_files(&paths, Reading { format, columns }, cache, report) {
                    Err(ConvertError::File(cause)) if paths.contains(&cause.path) => {
                        return Err(cause.into());
                    }
                    Err(ConvertError::File(cause)) => {
                        return Err(CorpusError::Cache { cause }.into());
                    }
                    found => found.map_err(|error| error.faults()),
                }
            }
            (None, Some(path)) => {
                let message = format!(
                    "`{}` is no Parquet file, and `cache: none` lets no copy of it be made",
                    path.display()
                );
                let hint = Content::of(path).map(|content| content.hint(path));
                Err(vec![Fault {
                    hint,
                    ..Fault::new(message)
                }])
            }
        },
    )
}
