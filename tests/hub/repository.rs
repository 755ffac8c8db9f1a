//! A repository of a test: its files, what the Hub lists of them, and a place to pull it to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rankine::hub::{Environment, HubError, Patience, Pulled, RepoId, pull_with};
use rankine::report::Event;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use tempfile::TempDir;

use super::server::{Answer, Request, Server};

pub const ID: &str = "owner/name";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A llama of the goldens, small enough for any test, with a pickle beside it.
pub fn llama() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/llama/model");
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut files: Files = entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.insert("pytorch_model.bin".into(), b"a pickle".to_vec());
    files.insert("original/params.json".into(), b"{}".to_vec());
    files
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

pub fn git_hash(content: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", content.len()))
        .chain_update(content)
        .finalize())
}

/// Weights and rows are large files.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".parquet")
}

/// The name that the cache has for a file.
pub fn hash(name: &str, content: &[u8]) -> String {
    if is_large(name) {
        sha256(content)
    } else {
        git_hash(content)
    }
}

pub fn sibling(name: &str, content: &[u8]) -> Value {
    let mut sibling =
        json!({"rfilename": name, "size": content.len(), "blobId": git_hash(content)});
    if is_large(name) {
        sibling["lfs"] =
            json!({"sha256": sha256(content), "size": content.len(), "pointerSize": 130});
    }
    sibling
}

pub fn listing(files: &Files) -> Value {
    let siblings: Vec<Value> = files
        .iter()
        .map(|(name, content)| sibling(name, content))
        .collect();
    json!({"id": ID, "sha": COMMIT, "siblings": siblings})
}

/// What a Hub that is well answers.
pub fn answer(files: &Files, request: &Request) -> Answer {
    let path = request.path.split('?').next().unwrap();
    if path == format!("/api/models/{ID}/revision/main")
        || path == format!("/api/models/{ID}/revision/{COMMIT}")
    {
        return Answer::ok(listing(files).to_string());
    }
    match path
        .strip_prefix(&format!("/{ID}/resolve/{COMMIT}/"))
        .and_then(|name| files.get(name))
    {
        Some(content) => Answer::content(request, content),
        None if path.contains("/revision/") && path.contains(ID) => {
            Answer::new(404, "").header("X-Error-Code", "RevisionNotFound")
        }
        None => Answer::new(404, "").header("X-Error-Code", "RepoNotFound"),
    }
}

/// A server with these files.
pub fn hub(files: &Files) -> Server {
    let files = files.clone();
    Server::start(move |request| answer(&files, request))
}

/// A Hub that does something else where `otherwise` says so.
pub fn hub_but(
    files: &Files,
    otherwise: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
) -> Server {
    let files = files.clone();
    Server::start(move |request| otherwise(request).unwrap_or_else(|| answer(&files, request)))
}

/// A cache of a test's own.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    pub fn repository(&self) -> PathBuf {
        self.cache().join("models--owner--name")
    }

    pub fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    pub fn incomplete(&self, hash: &str) -> PathBuf {
        self.repository()
            .join("blobs")
            .join(format!("{hash}.incomplete"))
    }

    pub fn environment(&self, endpoint: &str, more: &[(&str, &str)]) -> Environment {
        let home = self.folder.path().display().to_string();
        let of = |name: &str| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_ENDPOINT" => Some(endpoint.to_owned()),
            name => more
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned()),
        };
        Environment::of(&of)
    }

    pub fn pull(&self, server: &Server) -> Result<Pulled, HubError> {
        self.pull_id(server, ID)
    }

    pub fn pull_id(&self, server: &Server, id: &str) -> Result<Pulled, HubError> {
        self.pull_at(&server.address, id)
    }

    pub fn pull_at(&self, endpoint: &str, id: &str) -> Result<Pulled, HubError> {
        self.pull_with(endpoint, id, PATIENCE)
    }

    pub fn pull_with(
        &self,
        endpoint: &str,
        id: &str,
        patience: Patience,
    ) -> Result<Pulled, HubError> {
        pull_with(
            &self.environment(endpoint, &[]),
            patience,
            &RepoId::parse(id).unwrap(),
            &|event| {
                if let Event::Note(note) = event {
                    println!("note: {note}");
                }
            },
        )
    }

    /// Every path below the folder of the test, relative to it.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found);
        let mut names: Vec<String> = found
            .iter()
            .map(|path| {
                path.strip_prefix(self.folder.path())
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        names.sort();
        names
    }

    /// Holds that a snapshot has these files and no other.
    #[track_caller]
    pub fn holds(&self, files: &Files) {
        for (name, content) in files {
            let path = self.snapshot().join(name);
            let is_wanted = !["pytorch_model.bin", "original/params.json"].contains(&name.as_str());
            assert_eq!(path.exists(), is_wanted, "{name}");
            if is_wanted {
                assert!(fs::read(&path).unwrap() == *content, "{name}");
                assert_eq!(
                    path.read_link().unwrap(),
                    Path::new("../../blobs").join(hash(name, content)),
                    "{name}"
                );
            }
        }
        assert!(
            !self
                .files()
                .iter()
                .any(|name| name.ends_with(".incomplete")),
            "{:?}",
            self.files()
        );
        assert_eq!(
            fs::read_to_string(self.repository().join("refs/main")).unwrap(),
            COMMIT
        );
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if path.is_dir() && !path.is_symlink() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Of somebody in a hurry.
pub const PATIENCE: Patience = Patience {
    attempts: 5,
    first_wait: Duration::from_millis(1),
    longest_wait: Duration::from_millis(5),
    connect: Duration::from_secs(5),
    stall: Duration::from_secs(30),
};
