//! Data sets of the Hub in a recipe: their files in the cache, without network access, or what is
//! missing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::fault::{Explain, Fault};
use crate::hub::{DatasetPath, DatasetRequest, DatasetSnapshot, Environment, HubError};
use crate::recipe::{Dataset, Location, Recipe, Split};

/// Snapshots by the keys of their datasets in the recipe, such as `datasets.0`.
pub type Snapshots = BTreeMap<String, DatasetSnapshot>;

/// The data sets of the Hub that a recipe names.
#[derive(Debug, Default)]
pub(super) struct HubData {
    pub found: Snapshots,
    /// What is missing from the cache.
    pub absent: Vec<HubError>,
}

/// Returns the request for a dataset if its path is a Hub path.
///
/// # Errors
/// The path does not name a data set of the Hub.
pub fn request(dataset: &Dataset) -> Option<Result<DatasetRequest, HubError>> {
    let path = dataset
        .path
        .as_ref()
        .map(|said| &said.value)
        .filter(|path| DatasetPath::is_one(path))?;
    let request = DatasetPath::parse(path).map(|path| DatasetRequest {
        config: dataset
            .config
            .as_ref()
            .filter(|_| path.files.is_none())
            .map(|said| said.value.clone()),
        splits: Some(
            split_of(dataset)
                .parts
                .iter()
                .map(|part| part.name().to_owned())
                .collect(),
        ),
        path,
    });
    Some(request.map_err(HubError::Id))
}

/// Returns whether a dataset's path is a Hub path.
pub(super) fn is_of_hub(dataset: &Dataset) -> bool {
    dataset
        .path
        .as_ref()
        .is_some_and(|said| DatasetPath::is_one(&said.value))
}

/// Returns the requests for all datasets of a recipe, by key. Invalid paths are left out.
pub fn requests(recipe: &Recipe) -> BTreeMap<String, DatasetRequest> {
    keyed(recipe)
        .filter_map(|(key, dataset)| Some((key, request(dataset)?.ok()?)))
        .collect()
}

/// Returns the cached files of a Hub path: all that match its glob, or the split `train`.
///
/// # Errors
/// The path does not name a data set of the Hub, or some of it is not in the cache.
pub fn cached_files(path: &str) -> Result<Vec<PathBuf>, HubError> {
    let path = DatasetPath::parse(path)?;
    let request = DatasetRequest {
        path,
        config: None,
        splits: Some(vec![Split::TRAIN.to_owned()]),
    };
    Ok(Environment::read().cached_dataset(&request)?.paths())
}

fn keyed(recipe: &Recipe) -> impl Iterator<Item = (String, &Dataset)> {
    let sections = [
        ("datasets", &recipe.datasets),
        ("evaluation.datasets", &recipe.evaluation.datasets),
    ];
    sections.into_iter().flat_map(|(section, datasets)| {
        datasets
            .iter()
            .enumerate()
            .map(move |(index, dataset)| (format!("{section}.{index}"), dataset))
    })
}

/// Returns the splits that a dataset asks for.
pub(super) fn split_of(dataset: &Dataset) -> Split {
    dataset
        .split
        .as_ref()
        .map_or_else(|| Split::whole(Split::TRAIN), |said| said.value.clone())
}

/// Looks up the data sets of the Hub and puts their files into the recipe. For those that a run has
/// pinned, or that were fetched, the files are `known`. Anything wrong joins `faults`.
pub(super) fn place(recipe: &mut Recipe, known: &Snapshots, faults: &mut Vec<Fault>) -> HubData {
    let mut data = HubData::default();
    let environment = Environment::read();
    let sections = [
        ("datasets", &mut recipe.datasets),
        ("evaluation.datasets", &mut recipe.evaluation.datasets),
    ];
    for (section, datasets) in sections {
        for (index, dataset) in datasets.iter_mut().enumerate() {
            let (key, Some(request)) = (format!("{section}.{index}"), request(dataset)) else {
                continue;
            };
            let found = match known.get(&key) {
                Some(snapshot) => Ok(snapshot.clone()),
                None => request.and_then(|request| environment.cached_dataset(&request)),
            };
            // Nothing is looked for on the disk under such a path.
            let files = dataset.files.get_or_insert_default();
            match found {
                Ok(snapshot) => {
                    if files.len() != snapshot.files().count() {
                        *files = snapshot.paths();
                    }
                    data.found.insert(key, snapshot);
                }
                Err(error @ HubError::NotCached { .. }) => data.absent.push(error),
                Err(error) => faults.extend(
                    error
                        .faults()
                        .into_iter()
                        .map(|fault| said_at(&key, dataset, &error, fault)),
                ),
            }
        }
    }
    data
}

/// Returns the fault at the key that it is about.
fn said_at(key: &str, dataset: &Dataset, error: &HubError, fault: Fault) -> Fault {
    let path = dataset.path.as_ref().map(|said| &said.place);
    let (name, place): (&str, Option<&Location>) = match error {
        HubError::DatasetConfig { .. } => (
            "config",
            dataset.config.as_ref().map(|said| &said.place).or(path),
        ),
        HubError::DatasetSplit { .. } => (
            "split",
            dataset.split.as_ref().map(|said| &said.place).or(path),
        ),
        _ => ("path", path),
    };
    let fault = Fault {
        message: format!("{key}.{name}: {}", fault.message),
        ..fault
    };
    fault.at(place.unwrap_or(&dataset.place))
}
