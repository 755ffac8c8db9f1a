//! Pull of a dataset into a snapshot in the cache: the listing, the card and the licenses, then the
//! requested Parquet files.

use std::collections::BTreeMap;

use super::PulledDataset;
use super::cache::Cache;
use super::client::Client;
use super::dataset::{DatasetRequest, DatasetSnapshot};
use super::dataset_listing::DatasetListing;
use super::dataset_select::{Contents, select};
use super::environment::{Environment, Network};
use super::error::HubError;
use super::id::RepoId;
use super::retry::Patience;
use crate::files::{JSON_BYTES, create_folder, read_text_up_to};
use crate::report::{Event, Reporter};

const README: &str = "README.md";
const DOING: &str = "a pull";

/// Returns a dataset for a run.
///
/// A commit in the cache needs no network. For a branch or tag, the Hub is asked for its current
/// commit; if it does not answer, the cached commit is used, with a note.
///
/// # Errors
/// The dataset is not in the cache and cannot be fetched, or the request does not match the
/// repository.
pub fn fetch_dataset(
    environment: &Environment,
    request: &DatasetRequest,
    report: Reporter,
) -> Result<DatasetSnapshot, HubError> {
    let found = environment.cached_dataset(request);
    match (found, environment.network) {
        (found, Network::Off(_)) => found,
        (Ok(snapshot), _) if request.path.id.pinned().is_some() => Ok(snapshot),
        (Ok(snapshot), _) => {
            match pull_with(environment, Patience::default(), request, 1, report) {
                Err(error) if error.is_network_away() => {
                    report(Event::Note(format!(
                        "{error}; going on with commit {} of the cache",
                        snapshot.pinned().revision()
                    )));
                    Ok(snapshot)
                }
                pulled => Ok(pulled?.snapshot),
            }
        }
        (Err(_), Network::Allowed) => Ok(pull_dataset(environment, request, report)?.snapshot),
    }
}

/// Downloads the missing files of a dataset.
///
/// # Errors
/// The dataset does not exist, access is denied, its listing is refused, a file is damaged on its
/// way, it has no Parquet files, or there is no room for it.
pub fn pull_dataset(
    environment: &Environment,
    request: &DatasetRequest,
    report: Reporter,
) -> Result<PulledDataset, HubError> {
    if let Network::Off(_) = environment.network {
        return PulledDataset::cached(environment.cached_dataset(request)?);
    }
    let patience = Patience::default();
    pull_with(environment, patience, request, patience.attempts, report)
}

/// Returns the files that a lock names. Those missing in the cache are downloaded from their
/// commit.
///
/// # Errors
/// As for [`pull_dataset`].
pub fn fetch_locked(
    environment: &Environment,
    locked: DatasetSnapshot,
    report: Reporter,
) -> Result<DatasetSnapshot, HubError> {
    if locked.missing().is_empty() || matches!(environment.network, Network::Off(_)) {
        return locked.in_cache(environment);
    }
    let patience = Patience::default();
    let (client, cache, id) = (
        Client::new(environment, patience, DOING)?,
        Cache::at(&environment.cache),
        locked.pinned(),
    );
    let listing = client.dataset_listing(&id, patience.attempts, report)?;
    client.files(&cache, &id, &listing.commit, &listing.cards(), report)?;
    client.files(
        &cache,
        &id,
        &listing.commit,
        &listing.files(locked.files()),
        report,
    )?;
    locked.in_cache(environment)
}

fn pull_with(
    environment: &Environment,
    patience: Patience,
    request: &DatasetRequest,
    attempts: u32,
    report: Reporter,
) -> Result<PulledDataset, HubError> {
    let (client, cache) = (
        Client::new(environment, patience, DOING)?,
        Cache::at(&environment.cache),
    );
    let mut listings: BTreeMap<String, (RepoId, DatasetListing)> = BTreeMap::new();
    let mut moved_bytes = 0;
    let snapshot = select(request, &mut |id| {
        let listing = client.dataset_listing(id, attempts, report)?;
        let folder = cache.snapshot(id, listing.commit.clone()).folder;
        create_folder(&folder)?;
        moved_bytes += client.files(&cache, id, &listing.commit, &listing.cards(), report)?;
        cache.remember_names(id, &listing.commit, &listing.names)?;
        let has_readme = listing.names.iter().any(|name| name == README);
        let readme = has_readme
            .then(|| read_text_up_to(&folder.join(README), JSON_BYTES))
            .transpose()?;
        let contents = Contents {
            commit: listing.commit.clone(),
            names: listing.names.clone(),
            readme,
            folder,
            is_unlisted: false,
        };
        listings.insert(listing.commit.to_string(), (id.clone(), listing));
        Ok(contents)
    })?;
    let (id, listing) = &listings[snapshot.pinned().revision()];
    let files = listing.files(snapshot.files());
    moved_bytes += client.files(&cache, id, &listing.commit, &files, report)?;
    for (id, listing) in listings.values() {
        cache.remember(id, &listing.commit)?;
    }
    let files = files
        .into_iter()
        .map(|file| (file.name, file.bytes))
        .collect();
    Ok(PulledDataset {
        snapshot,
        files,
        downloaded_bytes: moved_bytes,
    })
}

impl Client {
    fn dataset_listing(
        &self,
        id: &RepoId,
        attempts: u32,
        report: Reporter,
    ) -> Result<DatasetListing, HubError> {
        DatasetListing::read(id, &self.revision("datasets", id, attempts, report)?)
    }
}
