//! The cache that Python's `huggingface_hub` uses too: `models--owner--name/` or
//! `datasets--owner--name/` with `blobs/` (contents by hash), `snapshots/COMMIT/` (links to them by
//! file name) and `refs/` (the commit of each branch)
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).
//!
//! Lookups need no network.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::Missing;
use super::id::{Commit, RepoId, RepoKind};
use crate::files::{self, JSON_BYTES, listed, read_text_up_to};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Cache at a folder.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

/// The files of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Requested repository and revision.
    pub id: RepoId,
    /// Commit of that revision.
    pub commit: Commit,
    /// Folder of the files.
    pub folder: PathBuf,
}

impl Cache {
    /// Makes a cache at a folder, which need not exist.
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Returns the folder of the cache.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Returns the snapshot of a base, if every file that a run reads is in the cache.
    ///
    /// # Errors
    /// Files are missing.
    pub fn find(&self, id: &RepoId) -> Result<Snapshot, Missing> {
        let commit = id
            .pinned()
            .or_else(|| self.commit_of(id))
            .ok_or(Missing::Everything)?;
        let snapshot = self.snapshot(id, commit);
        if !snapshot.folder.is_dir() {
            return Err(Missing::Everything);
        }
        match missing_files(&snapshot.folder) {
            missing if missing.is_empty() => Ok(snapshot),
            missing => Err(Missing::Files {
                commit: snapshot.commit,
                names: listed(&missing),
            }),
        }
    }

    /// Returns the commit of a branch or tag at the last request to the Hub.
    pub(super) fn commit_of(&self, id: &RepoId) -> Option<Commit> {
        let text = read_text_up_to(&self.reference(id), 1 << 10).ok()?;
        Commit::parse(text.trim())
    }

    /// Returns the snapshot of a commit, whether or not its files exist.
    pub(super) fn snapshot(&self, id: &RepoId, commit: Commit) -> Snapshot {
        let folder = self.repository(id).join("snapshots").join(commit.as_str());
        Snapshot {
            id: id.clone(),
            commit,
            folder,
        }
    }

    fn repository(&self, id: &RepoId) -> PathBuf {
        self.0.join(folder_name(id))
    }

    fn reference(&self, id: &RepoId) -> PathBuf {
        self.repository(id).join("refs").join(id.revision())
    }

    /// Returns the path of a JSON list of all file names of a commit. Python's client ignores this
    /// file.
    fn names_file(&self, id: &RepoId, commit: &Commit) -> PathBuf {
        self.repository(id)
            .join(".rankine")
            .join(format!("{commit}.json"))
    }

    /// Returns the names of all files of a commit, if a pull of Rankine recorded them.
    pub(super) fn names(&self, id: &RepoId, commit: &Commit) -> Option<Vec<String>> {
        serde_json::from_str(&read_text_up_to(&self.names_file(id, commit), JSON_BYTES).ok()?).ok()
    }
}

/// Paths that only downloads need. `hash` is hexadecimal digits.
#[cfg(feature = "hub")]
impl Cache {
    /// Returns the path of a blob.
    pub(super) fn blob(&self, id: &RepoId, hash: &str) -> PathBuf {
        self.repository(id).join("blobs").join(hash)
    }

    /// Returns the path of the file that Python's client locks while it writes a blob.
    pub(super) fn lock(&self, id: &RepoId, hash: &str) -> PathBuf {
        self.0
            .join(".locks")
            .join(folder_name(id))
            .join(format!("{hash}.lock"))
    }

    /// Records the names of all files of a commit, so that missing files are known without network.
    pub(super) fn remember_names(
        &self,
        id: &RepoId,
        commit: &Commit,
        names: &[String],
    ) -> Result<(), files::FileError> {
        if self.names(id, commit).as_deref() == Some(names) {
            return Ok(());
        }
        files::write_atomic(
            &self.names_file(id, commit),
            serde_json::json!(names).to_string().as_bytes(),
        )
    }

    /// Records the commit of a branch or tag.
    pub(super) fn remember(&self, id: &RepoId, commit: &Commit) -> Result<(), files::FileError> {
        if id.pinned().is_some() || self.commit_of(id).as_ref() == Some(commit) {
            return Ok(());
        }
        files::write_atomic(&self.reference(id), commit.as_str().as_bytes())
    }
}

fn folder_name(id: &RepoId) -> String {
    let kind = match id.kind() {
        RepoKind::Model => "models",
        RepoKind::Dataset => "datasets",
    };
    format!("{kind}--{}", id.repository().replace('/', "--"))
}

/// Returns the files that a base needs and that are missing in this folder. An adapter needs its
/// two files.
fn missing_files(folder: &Path) -> Vec<String> {
    let is_there = |name: &str| folder.join(name).is_file();
    let missing = |names: &[&str]| {
        names
            .iter()
            .filter(|name| !is_there(name))
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    if !is_there(CONFIG) && is_there("adapter_config.json") {
        return missing(&["adapter_model.safetensors"]);
    }
    let mut names = missing(&[CONFIG, TOKENIZER]);
    if !is_there(WEIGHTS) {
        match shards(&folder.join(INDEX)) {
            Ok(shards) => names.extend(shards.into_iter().filter(|name| !is_there(name))),
            Err(_) if !is_there(INDEX) => names.push(WEIGHTS.to_owned()),
            // Opening the file will report what is wrong with it.
            Err(_) => {}
        }
    }
    names
}

/// Returns the distinct files that an index names.
fn shards(index: &Path) -> Result<Vec<String>, files::FileError> {
    let text = read_text_up_to(index, JSON_BYTES)?;
    let index: Value = serde_json::from_str(&text).unwrap_or_default();
    let names = index["weight_map"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, name)| name.as_str());
    let names: std::collections::BTreeSet<&str> = names.collect();
    Ok(names.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::at(dir.path());
        let id = RepoId::parse("owner/name").expect("an id");
        assert_eq!(cache.find(&id), Err(Missing::Everything));
        let repository = dir.path().join("models--owner--name");
        let snapshot = repository.join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).expect("made");
        fs::create_dir_all(repository.join("refs")).expect("made");
        fs::write(repository.join("refs/main"), COMMIT).expect("written");
        fs::write(snapshot.join(CONFIG), "{}").expect("written");
        let missing = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Err(Missing::Files {
                commit: Commit::parse(COMMIT).expect("a commit"),
                names,
            })
        };
        assert_eq!(cache.find(&id), missing(&[TOKENIZER, WEIGHTS]));
        fs::write(snapshot.join(TOKENIZER), "{}").expect("written");
        fs::write(
            snapshot.join(INDEX),
            concat!(
                r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "#,
                r#""c": "m-1.safetensors"}}"#
            ),
        )
        .expect("written");
        fs::write(snapshot.join("m-1.safetensors"), "").expect("written");
        assert_eq!(cache.find(&id), missing(&["m-2.safetensors"]));
        fs::write(snapshot.join("m-2.safetensors"), "").expect("written");
        assert_eq!(cache.find(&id).expect("whole").folder, snapshot);
        let pinned = RepoId::parse(&format!("owner/name@{COMMIT}")).expect("an id");
        assert_eq!(cache.find(&pinned).expect("whole").folder, snapshot);
        let branch = RepoId::parse("owner/name@dev").expect("an id");
        assert_eq!(cache.find(&branch), Err(Missing::Everything));
        fs::write(repository.join("refs/main"), "../../../etc").expect("written");
        assert_eq!(
            cache.find(&id),
            Err(Missing::Everything),
            "a ref that is no commit leads nowhere"
        );
    }
}
