//! Models and data sets on the Hub: an id to a folder in the cache that Python's `huggingface_hub`
//! uses too, and an adapter to a repository.
//!
//! The only module that knows the network. What a server says is material: names pass an
//! allow-list, commits and hashes their form, and every byte its hash, before anything of it is
//! found under a name. Looking into the cache needs no network; under `HF_HUB_OFFLINE` a [`Client`]
//! cannot be made at all.

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

/// What a pull came to.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Where the files are.
    pub snapshot: Snapshot,
    /// Names and sizes in bytes, in the order of their names.
    pub files: Vec<(String, u64)>,
    /// Bytes that came over the network.
    pub downloaded_bytes: u64,
    /// Files of the repository that are of no use here and stayed there.
    pub skipped: usize,
}

/// What a pull of a data set came to.
#[derive(Debug, Clone)]
pub struct PulledDataset {
    /// Where the files are, and what they are.
    pub snapshot: DatasetSnapshot,
    /// Names and sizes in bytes, split after split.
    pub files: Vec<(String, u64)>,
    /// Bytes that came over the network.
    pub downloaded_bytes: u64,
}

impl PulledDataset {
    /// What is in the cache, as a pull that had nothing to do.
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

/// Who may see a repository that is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Whoever its owner's settings say, which is everybody unless they say otherwise.
    AsOwner,
    /// Its owner alone; a repository that others can see is refused.
    Private,
}

/// What is to be uploaded in one commit.
#[derive(Debug, Clone)]
pub struct Shipment {
    /// The repository, and the branch as its revision.
    pub id: RepoId,
    /// Name in the repository and what is in it.
    pub files: Vec<(String, Content)>,
    /// Title of the commit.
    pub message: String,
    /// For a repository that is not there yet.
    pub visibility: Visibility,
}

/// What is in a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// Small, and in memory.
    Bytes(Vec<u8>),
    /// A file that is read while it is sent.
    File(PathBuf),
}

/// What a push came to.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The page of the repository.
    pub url: String,
    /// The commit; nothing where every file was there already.
    pub commit: Option<Commit>,
    /// Names and sizes in bytes of what is new or has changed.
    pub files: Vec<(String, u64)>,
    /// Bytes of large files that were sent.
    pub uploaded_bytes: u64,
}
