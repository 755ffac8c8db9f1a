//! Bases and datasets of the Hub for the commands: from the cache, or downloaded into it.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::fault::Exit;
use crate::fault::shell_word;
use crate::files;
use crate::hub::{Cache, Environment, HubError, Missing, RepoId, Snapshot};
use crate::plan::{Lock, Places, Snapshots, requests};
use crate::recipe::Recipe;
use crate::report::{Terminal, say_now};

/// Returns a base for a run, downloaded if necessary.
pub(super) fn fetch(id: &RepoId, terminal: &Terminal) -> Result<Snapshot, HubError> {
    let fetched = crate::hub::fetch(&Environment::read(), id, &|event| terminal.take(&event));
    terminal.stop();
    fetched
}

/// Returns the base of a resumed run, at the commit of its lock and under the name in its recipe.
/// It comes from the named folder, or is downloaded if necessary.
pub(super) fn locked(
    pinned: &RepoId,
    recipe: &Recipe,
    named: Option<&Path>,
    terminal: &Terminal,
) -> Result<Snapshot, HubError> {
    match in_folder(pinned, named) {
        Some(snapshot) => Ok(called(snapshot, pinned, recipe)),
        None => Ok(called(fetch(pinned, terminal)?, pinned, recipe)),
    }
}

/// Returns the same base as [`locked`], without network.
pub(super) fn pinned(
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
pub(super) fn fetch_datasets(recipe: &Recipe, terminal: &Terminal) -> Result<Snapshots, HubError> {
    let environment = Environment::read();
    let fetch = |(key, request)| {
        let fetched =
            crate::hub::fetch_dataset(&environment, &request, &|event| terminal.take(&event));
        terminal.stop();
        Ok((key, fetched?))
    };
    requests(recipe).into_iter().map(fetch).collect()
}

/// Returns the Hub datasets that a run has read, at the commits of its lock.
///
/// They come from where `places` found them by content, from the cache, or from the Hub. Without a
/// terminal, nothing is downloaded.
pub(super) fn locked_datasets(
    lock: &Lock,
    recipe: &mut Recipe,
    places: &Places,
    terminal: Option<&Terminal>,
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
        let snapshot = match (moved, terminal) {
            (Some(files), _) => {
                if let Some(dataset) = recipe.dataset_mut(&key) {
                    dataset.files = Some(files);
                }
                snapshot
            }
            (None, Some(terminal)) => {
                let fetched = crate::hub::fetch_locked(&environment, snapshot, &|event| {
                    terminal.take(&event);
                });
                terminal.stop();
                fetched?
            }
            (None, None) => snapshot.in_cache(&environment)?,
        };
        found.insert(key, snapshot);
    }
    Ok(found)
}

/// Returns a base from the cache, without network.
pub(super) fn cached(id: &RepoId) -> Result<Snapshot, HubError> {
    Cache::at(&Environment::read().cache)
        .find(id)
        .map_err(|missing| not_cached(id, missing))
}

/// Makes the error of a command without network whose base is not in the cache.
pub(super) fn not_cached(id: &RepoId, missing: Missing) -> HubError {
    Environment::read().not_cached(id, shell_word(&id.to_string()), missing)
}

/// While this value lives, SIGINT and SIGTERM end the process with exit code 130 and a note on what
/// is kept.
///
/// Afterwards nobody handles them, so a caller that continues must install its own handler first.
pub(super) struct Leaving {
    #[cfg(unix)]
    handle: signal_hook::iterator::Handle,
}

impl Leaving {
    /// Starts to listen, in a separate thread.
    #[cfg(unix)]
    pub fn listen() -> Result<Self, Failure> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let failed =
            |cause| files::FileError::new("listen for", std::path::Path::new("SIGINT"), cause);
        let mut arriving =
            signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = arriving.handle();
        std::thread::spawn(move || {
            if arriving.forever().next().is_some() {
                say_now(
                    "stopped: what was downloaded stays, and the same command goes on from there",
                );
                std::process::exit(Exit::Signal as i32);
            }
        });
        Ok(Self { handle })
    }

    /// Does nothing. On this system, Ctrl-C ends the process, and downloaded bytes are kept.
    #[cfg(not(unix))]
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub fn listen() -> Result<Self, Failure> {
        Ok(Self {})
    }
}

#[cfg(unix)]
impl Drop for Leaving {
    fn drop(&mut self) {
        self.handle.close();
    }
}
