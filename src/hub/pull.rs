//! Pull of a repository into a snapshot in the cache: the listing, a check of the disk space, the
//! missing files, links by name, and finally the commit of the branch.

use std::path::Path;

use super::Pulled;
use super::cache::{Cache, Snapshot};
use super::client::Client;
use super::download::WantedFile;
use super::environment::{Environment, Network};
use super::error::HubError;
use super::id::{Commit, RepoId};
use super::listing::{Listing, RemoteFile};
use super::location::escaped;
use super::progress::Progress;
use super::retry::Patience;
use crate::fault::shell_word;
use crate::files::{self, JSON_BYTES, check_space, create_folder, link_atomic};
use crate::report::{Event, Reporter};

/// Returns a base for a run. A commit in the cache needs no network. For a branch or tag, the Hub
/// is asked for its current commit; if it does not answer, the cached commit is used, with a note.
///
/// # Errors
/// The base is not in the cache and cannot be fetched.
pub fn fetch(
    environment: &Environment,
    id: &RepoId,
    report: Reporter,
) -> Result<Snapshot, HubError> {
    let cache = Cache::at(&environment.cache);
    let found = cache.find(id);
    match (found, environment.network) {
        (Ok(snapshot), Network::Off(_)) => Ok(snapshot),
        (Ok(snapshot), _) if id.pinned().is_some() => Ok(snapshot),
        (Ok(snapshot), _) => {
            // With a copy in the cache, the wait is short.
            let client = Client::new(environment, Patience::default(), "a pull")?;
            match client.listing(id, 1, report) {
                Err(error) if error.is_network_away() => {
                    report(Event::Note(format!(
                        "{error}; going on with commit {} of the cache",
                        snapshot.commit
                    )));
                    Ok(snapshot)
                }
                listing => Ok(client.download(&cache, id, &listing?, report)?.snapshot),
            }
        }
        (Err(missing), Network::Off(_)) => {
            Err(environment.not_cached(id, shell_word(&id.to_string()), missing))
        }
        (Err(_), Network::Allowed) => Ok(pull(environment, id, report)?.snapshot),
    }
}

/// Downloads the missing files of a repository.
///
/// # Errors
/// The repository does not exist, access is denied, its listing is refused, a file is damaged on
/// its way, or there is no room for it.
pub fn pull(environment: &Environment, id: &RepoId, report: Reporter) -> Result<Pulled, HubError> {
    pull_with(environment, Patience::default(), id, report)
}

/// Does the same as [`pull`] with other time limits.
///
/// # Errors
/// As for [`pull`].
pub fn pull_with(
    environment: &Environment,
    patience: Patience,
    id: &RepoId,
    report: Reporter,
) -> Result<Pulled, HubError> {
    let cache = Cache::at(&environment.cache);
    if let Network::Off(_) = environment.network {
        let failed = |missing| environment.not_cached(id, shell_word(&id.to_string()), missing);
        return cached(cache.find(id).map_err(failed)?);
    }
    let client = Client::new(environment, patience, "a pull")?;
    let listing = client.listing(id, patience.attempts, report)?;
    client.download(&cache, id, &listing, report)
}

/// Returns the result for a snapshot that is already in the cache.
fn cached(snapshot: Snapshot) -> Result<Pulled, HubError> {
    let failed = |cause| files::FileError::new("read", &snapshot.folder, cause);
    let mut files = Vec::new();
    for entry in snapshot.folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let bytes = path.metadata().map_err(failed)?.len();
        files.push((
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            bytes,
        ));
    }
    files.sort();
    Ok(Pulled {
        snapshot,
        files,
        downloaded_bytes: 0,
        skipped: 0,
    })
}

impl Client {
    fn listing(&self, id: &RepoId, attempts: u32, report: Reporter) -> Result<Listing, HubError> {
        Listing::read(id, &self.revision("models", id, attempts, report)?)
    }

    /// Asks what a revision of a repository has; `kind` is `models` or `datasets`.
    pub(super) fn revision(
        &self,
        kind: &str,
        id: &RepoId,
        attempts: u32,
        report: Reporter,
    ) -> Result<Vec<u8>, HubError> {
        let (repository, revision) = (id.repository(), escaped(id.revision()));
        let path = format!("api/{kind}/{repository}/revision/{revision}?blobs=true");
        let address = self.address(&path)?;
        self.insist(attempts, report, || {
            self.get_small(id, address.clone(), JSON_BYTES)
        })
    }

    fn download(
        &self,
        cache: &Cache,
        id: &RepoId,
        listing: &Listing,
        report: Reporter,
    ) -> Result<Pulled, HubError> {
        let downloaded_bytes = self.files(cache, id, &listing.commit, &listing.files, report)?;
        cache.remember(id, &listing.commit)?;
        let files = listing
            .files
            .iter()
            .map(|file| (file.name.clone(), file.bytes))
            .collect();
        let snapshot = cache.snapshot(id, listing.commit.clone());
        Ok(Pulled {
            snapshot,
            files,
            downloaded_bytes,
            skipped: listing.skipped,
        })
    }

    /// Downloads the missing files of a commit and links them into its snapshot. Returns the
    /// downloaded bytes.
    pub(super) fn files(
        &self,
        cache: &Cache,
        id: &RepoId,
        commit: &Commit,
        files: &[RemoteFile],
        report: Reporter,
    ) -> Result<u64, HubError> {
        let folder = cache.snapshot(id, commit.clone()).folder;
        let wanted: Vec<WantedFile> = files
            .iter()
            .map(|file| {
                let hash = file.digest.text();
                WantedFile {
                    id,
                    commit,
                    file,
                    blob: cache.blob(id, hash),
                    lock: cache.lock(id, hash),
                }
            })
            .collect();
        let total = files
            .iter()
            .fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
        let have = |wanted: &WantedFile| {
            if wanted.is_there() {
                wanted.file.bytes
            } else {
                wanted.begun_bytes()
            }
        };
        let done = wanted
            .iter()
            .fold(0_u64, |sum, wanted| sum.saturating_add(have(wanted)));
        create_folder(&folder)?;
        check_space(&folder, total.saturating_sub(done))?;
        let mut progress = Progress::new(report, total, done);
        for wanted in &wanted {
            if !wanted.is_there() {
                wanted.download(self, &mut progress)?;
            }
            link(&wanted.blob, &folder, &wanted.file.name)?;
        }
        Ok(progress.moved_bytes)
    }
}

/// Links a name of the snapshot to its blob: `../../blobs/HASH`, or `../../../blobs/HASH` from a
/// subfolder.
fn link(blob: &Path, snapshot: &Path, name: &str) -> Result<(), HubError> {
    let up = "../".repeat(name.matches('/').count());
    let target = Path::new(&up)
        .join("../../blobs")
        .join(blob.file_name().unwrap_or_default());
    let name = &snapshot.join(name);
    name.parent().map_or(Ok(()), create_folder)?;
    if name.read_link().is_ok_and(|found| found == target) {
        return Ok(());
    }
    Ok(link_atomic(&target, name)?)
}
