//! Models and datasets on the Hub: downloads by id into the cache that Python's `huggingface_hub`
//! uses too, and uploads of an adapter.
//!
//! Only this module uses the network. Answers of a server are not trusted: file names must be on an
//! allow-list, commits and hashes must have their form, and every byte is hashed before a file gets
//! its name. Lookups in the cache need no network; under `HF_HUB_OFFLINE`, no [`Client`] can be
//! made.

mod cache;
#[cfg(feature = "hub")]
mod client;
mod dataset;
mod dataset_card;
mod dataset_layout;
#[cfg(feature = "hub")]
mod dataset_listing;
mod dataset_path;
mod dataset_select;
#[cfg(feature = "hub")]
mod digest;
#[cfg(feature = "hub")]
mod download;
mod environment;
mod error;
mod id;
#[cfg(feature = "hub")]
mod listing;
#[cfg(feature = "hub")]
mod location;
#[cfg(feature = "hub")]
mod names;
#[cfg(not(feature = "hub"))]
mod no_network;
#[cfg(feature = "hub")]
mod progress;
#[cfg(feature = "hub")]
mod pull;
#[cfg(feature = "hub")]
mod pull_dataset;
#[cfg(feature = "hub")]
mod push;
#[cfg(feature = "hub")]
mod retry;
pub mod stores;
#[cfg(feature = "hub")]
mod upload;

pub use cache::{Cache, Snapshot};
#[cfg(feature = "hub")]
pub use client::Client;
pub use dataset::{DatasetRequest, DatasetSnapshot};
pub use dataset_layout::DatasetSplit;
pub use dataset_path::DatasetPath;
pub use environment::{Environment, Network, Token};
pub use error::{Access, HubError, Missing, TokenUse};
pub use id::{Commit, IdError, RepoId, RepoKind};
#[cfg(not(feature = "hub"))]
pub use no_network::{fetch, fetch_dataset, fetch_locked, pull, pull_dataset, push};
#[cfg(feature = "hub")]
pub use pull::{fetch, pull, pull_with};
#[cfg(feature = "hub")]
pub use pull_dataset::{fetch_dataset, fetch_locked, pull_dataset};
#[cfg(feature = "hub")]
pub use push::{push, push_with};
#[cfg(feature = "hub")]
pub use retry::Patience;

use std::path::PathBuf;

use crate::files;

/// Result of a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Snapshot of the files.
    pub snapshot: Snapshot,
    /// Names and sizes in bytes, sorted by name.
    pub files: Vec<(String, u64)>,
    /// Bytes that were downloaded.
    pub downloaded_bytes: u64,
    /// Number of files of the repository that are not needed and were not downloaded.
    pub skipped: usize,
}

/// Result of a pull of a dataset.
#[derive(Debug, Clone)]
pub struct PulledDataset {
    /// Snapshot of the files.
    pub snapshot: DatasetSnapshot,
    /// Names and sizes in bytes, split by split.
    pub files: Vec<(String, u64)>,
    /// Bytes that were downloaded.
    pub downloaded_bytes: u64,
}

impl PulledDataset {
    /// Returns the result for files that are already in the cache.
    fn cached(snapshot: DatasetSnapshot) -> Result<Self, HubError> {
        let size = |name: &String| {
            let path = snapshot.folder.join(name);
            let found = path
                .metadata()
                .map_err(|cause| files::FileError::new("read", &path, cause))?;
            Ok((name.clone(), found.len()))
        };
        let files = snapshot
            .files()
            .map(size)
            .collect::<Result<_, HubError>>()?;
        Ok(Self {
            snapshot,
            files,
            downloaded_bytes: 0,
        })
    }
}

/// Visibility of a new repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// The default of the owner's settings, usually public.
    AsOwner,
    /// Private to its owner; an existing public repository is refused.
    Private,
}

/// Upload of files in one commit.
#[derive(Debug, Clone)]
pub struct Shipment {
    /// Repository, with the branch as its revision.
    pub id: RepoId,
    /// Names in the repository, with contents.
    pub files: Vec<(String, Content)>,
    /// Title of the commit.
    pub message: String,
    /// Visibility of a repository that does not exist yet.
    pub visibility: Visibility,
}

/// Content of a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes of a small file.
    Bytes(Vec<u8>),
    /// Path of a file that is read while it is sent.
    File(PathBuf),
}

/// Result of a push.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Address of the repository's page.
    pub url: String,
    /// The commit; `None` if every file was already there.
    pub commit: Option<Commit>,
    /// Names and sizes in bytes of new or changed files.
    pub files: Vec<(String, u64)>,
    /// Bytes of large files that were uploaded.
    pub uploaded_bytes: u64,
}
