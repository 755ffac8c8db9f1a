//! Bases and datasets of the Hub of a run: from the cache, or downloaded into it.

use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::places::Places;
use crate::fault::shell_word;
use crate::hub::{Cache, Environment, HubError, Missing, RepoId, Snapshot};
use crate::plan::{Snapshots, requests};
use crate::recipe::Recipe;
use crate::report::{Event, Reporter};

/// Returns a base for a run, downloaded if necessary.
pub fn fetch(id: &RepoId, report: Reporter) -> Result<Snapshot, HubError> {
    let fetched = crate::hub::fetch(&Environment::read(), id, report);
    report(Event::Ended);
    fetched
}

/// Returns the base of a resumed run, at the commit of its lock and under the name in its recipe.
/// It comes from the named folder, or is downloaded if necessary.
pub fn locked(
    pinned: &RepoId,
    recipe: &Recipe,
    named: Option<&Path>,
    report: Reporter,
) -> Result<Snapshot, HubError> {
    match in_folder(pinned, named) {
        Some(snapshot) => Ok(called(snapshot, pinned, recipe)),
        None => Ok(called(fetch(pinned, report)?, pinned, recipe)),
    }
}

/// Returns the same base as [`locked`], without network.
pub fn pinned(
    pinned: &RepoId,
    recipe: &Recipe,
    named: Option<&Path>,
) -> Result<Snapshot, HubError> {
    in_folder(pinned, named).map_or_else(
        || cached(pinned),
        |snapshot| Ok(called(snapshot, pinned, recipe)),
    )
}

/// Makes a snapshot of a commit whose files lie in a separate folder.
fn in_folder(pinned: &RepoId, folder: Option<&Path>) -> Option<Snapshot> {
    Some(Snapshot {
        id: pinned.clone(),
        commit: pinned.pinned()?,
        folder: folder?.to_owned(),
    })
}

fn called(snapshot: Snapshot, pinned: &RepoId, recipe: &Recipe) -> Snapshot {
    let said = recipe
        .base_model
        .as_ref()
        .and_then(|said| RepoId::parse(&said.value).ok());
    let said = said.filter(|said| said.repository() == pinned.repository());
    Snapshot {
        id: said.unwrap_or(snapshot.id),
        ..snapshot
    }
}

/// Returns the Hub datasets of a recipe, downloaded if necessary.
pub fn fetch_datasets(recipe: &Recipe, report: Reporter) -> Result<Snapshots, HubError> {
    let environment = Environment::read();
    let fetch = |(key, request)| {
        let fetched = crate::hub::fetch_dataset(&environment, &request, report);
        report(Event::Ended);
        Ok((key, fetched?))
    };
    requests(recipe).into_iter().map(fetch).collect()
}

/// Returns the Hub datasets that a run has read, at the commits of its lock.
///
/// They come from where `places` found them by content, from the cache, or from the Hub. Without a
/// reporter, nothing is downloaded.
pub fn locked_datasets(
    lock: &Lock,
    recipe: &mut Recipe,
    places: &Places,
    report: Option<Reporter>,
) -> Result<Snapshots, HubError> {
    let (environment, mut found) = (Environment::read(), Snapshots::new());
    let asked = requests(recipe);
    for (key, snapshot) in lock.hub_data() {
        // A recipe edited in its lock may name other rows, which are looked up like any others.
        if !asked
            .get(&key)
            .is_some_and(|request| snapshot.answers(request))
        {
            continue;
        }
        let moved: Option<Vec<PathBuf>> = snapshot
            .paths()
            .iter()
            .map(|path| places.found_by_content(lock, path))
            .collect();
        let snapshot = match (moved, report) {
            (Some(files), _) => {
                if let Some(dataset) = recipe.dataset_mut(&key) {
                    dataset.files = Some(files);
                }
                snapshot
            }
            (None, Some(report)) => {
                let fetched = crate::hub::fetch_locked(&environment, snapshot, report);
                report(Event::Ended);
                fetched?
            }
            (None, None) => snapshot.in_cache(&environment)?,
        };
        found.insert(key, snapshot);
    }
    Ok(found)
}

/// Returns a base from the cache, without network.
pub fn cached(id: &RepoId) -> Result<Snapshot, HubError> {
    Cache::at(&Environment::read().cache)
        .find(id)
        .map_err(|missing| not_cached(id, missing))
}

/// Makes the error of a command without network whose base is not in the cache.
pub fn not_cached(id: &RepoId, missing: Missing) -> HubError {
    Environment::read().not_cached(id, shell_word(&id.to_string()), missing)
}
