//! Bases of the Hub, as the verbs find them: in the cache, or fetched into it.

use std::path::Path;

use super::Failure;
use crate::fault::Exit;
use crate::files;
use crate::hub::{Cache, Environment, Error, Missing, Network, RepoId, Snapshot};
use crate::recipe::Recipe;
use crate::report::{Terminal, say_now};

/// A base for a run, fetched if need be.
pub(super) fn fetch(id: &RepoId, terminal: &Terminal) -> Result<Snapshot, Error> {
    let fetched = crate::hub::fetch(&Environment::read(), id, &|event| terminal.take(&event));
    terminal.stop();
    fetched
}

/// The base of a run that goes on: the commit of its lock, called as its recipe calls it, from the folder that was named for it or fetched.
pub(super) fn locked(pinned: &RepoId, recipe: &Recipe, named: Option<&Path>, terminal: &Terminal) -> Result<Snapshot, Error> {
    match in_folder(pinned, named) {
        Some(snapshot) => Ok(called(snapshot, pinned, recipe)),
        None => Ok(called(fetch(pinned, terminal)?, pinned, recipe)),
    }
}

/// [`locked`] without network.
pub(super) fn pinned(pinned: &RepoId, recipe: &Recipe, named: Option<&Path>) -> Result<Snapshot, Error> {
    in_folder(pinned, named).map_or_else(|| cached(pinned), |snapshot| Ok(called(snapshot, pinned, recipe)))
}

/// A commit whose files are in a folder of their own.
fn in_folder(pinned: &RepoId, folder: Option<&Path>) -> Option<Snapshot> {
    Some(Snapshot { id: pinned.clone(), commit: pinned.pinned()?, folder: folder?.to_owned() })
}

fn called(snapshot: Snapshot, pinned: &RepoId, recipe: &Recipe) -> Snapshot {
    let said = recipe.base_model.as_ref().and_then(|said| RepoId::parse(&said.value).ok());
    let said = said.filter(|said| said.repository() == pinned.repository());
    Snapshot { id: said.unwrap_or(snapshot.id), ..snapshot }
}

/// A base that is in the cache, without network.
pub(super) fn cached(id: &RepoId) -> Result<Snapshot, Error> {
    Cache::at(&Environment::read().cache).find(id).map_err(|missing| not_cached(id, missing))
}

/// Why a verb that uses no network has no base.
pub(super) fn not_cached(id: &RepoId, missing: Missing) -> Error {
    Environment::read().not_cached(id, shell_word(&id.to_string()), missing)
}

/// While it lives SIGINT and SIGTERM end the process with 130 and a word about what stays. After it nobody hears them, so who goes on
/// listens before.
pub(super) struct Leaving {
    #[cfg(unix)]
    handle: signal_hook::iterator::Handle,
}

impl Leaving {
    /// Listens from now on, in a thread of its own.
    #[cfg(unix)]
    pub fn listen() -> Result<Self, Failure> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let failed = |cause| files::Error::new("listen for", std::path::Path::new("SIGINT"), cause);
        let mut arriving = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = arriving.handle();
        std::thread::spawn(move || {
            if arriving.forever().next().is_some() {
                say_now("stopped: what was downloaded stays, and the same command goes on from there");
                std::process::exit(Exit::Signal as i32);
            }
        });
        Ok(Self { handle })
    }

    /// Listens to nothing: on this system Ctrl-C ends the process, and what was downloaded stays.
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
