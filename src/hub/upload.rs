//! Upload of large files by the basic transfer of Git LFS
//! (<https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>).
//!
//! Files are read while they are sent, and never held in memory.

use std::io::{self, Read};

use serde_json::{Value, json};
use ureq::SendBody;
use ureq::http::Request;

use super::Content;
use super::client::Client;
use super::digest::{Digest, Hasher};
use super::error::{Access, HubError};
use super::id::RepoId;
use super::location::Location;
use super::progress::Progress;
use super::push::{ANSWER_BYTES, JSON, read};
use super::retry::Failed;
use crate::fault::printable;
use crate::files::{self, open_file};

const PIECE_BYTES: usize = 256 << 10;
/// Bytes of a file from which the Hub recognizes text.
const SAMPLE_BYTES: usize = 512;
const LFS: [(&str, &str); 2] = [
    ("Accept", "application/vnd.git-lfs+json"),
    ("Content-Type", "application/vnd.git-lfs+json"),
];

/// A file to upload, with the facts that the Hub asks for.
pub(super) struct Outgoing<'a> {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
    pub git_hash: String,
    pub sample: Vec<u8>,
    content: &'a Content,
}

impl<'a> Outgoing<'a> {
    /// Reads the file once, to hash it.
    pub fn new(name: &str, content: &'a Content) -> Result<Self, HubError> {
        let bytes = match content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(path) => open_file(path)?
                .metadata()
                .map_err(|cause| files::FileError::new("read", path, cause))?
                .len(),
        };
        let mut hashers = [
            Digest::Sha256(String::new()).hasher(bytes),
            Hasher::git_blob(bytes),
        ];
        let (mut reader, mut sample, mut piece) =
            (open(content)?, Vec::new(), vec![0; PIECE_BYTES]);
        loop {
            let length = reader
                .read(&mut piece)
                .map_err(|cause| unreadable(content, cause))?;
            if length == 0 {
                break;
            }
            sample.extend(
                piece[..length]
                    .iter()
                    .take(SAMPLE_BYTES.saturating_sub(sample.len())),
            );
            for hasher in &mut hashers {
                hasher.update(&piece[..length]);
            }
        }
        let [sha256, git_hash] = hashers.map(Hasher::finish);
        Ok(Self {
            name: name.to_owned(),
            bytes,
            sha256,
            git_hash,
            sample,
            content,
        })
    }

    /// Returns the whole content.
    pub fn read(&self) -> Result<Vec<u8>, HubError> {
        let mut bytes = Vec::new();
        open(self.content)?
            .read_to_end(&mut bytes)
            .map_err(|cause| unreadable(self.content, cause))?;
        Ok(bytes)
    }
}

fn open(content: &Content) -> Result<Box<dyn Read + '_>, HubError> {
    Ok(match content {
        Content::Bytes(bytes) => Box::new(&bytes[..]),
        Content::File(path) => Box::new(open_file(path)?),
    })
}

fn unreadable(content: &Content, cause: io::Error) -> HubError {
    let path = match content {
        Content::Bytes(_) => std::path::Path::new("memory"),
        Content::File(path) => path,
    };
    files::FileError::new("read", path, cause).into()
}

/// Address from the Hub, with the headers for a request to it.
struct Action {
    to: Location,
    headers: Vec<(String, String)>,
}

impl Client {
    /// Uploads large files.
    pub(super) fn upload(
        &self,
        id: &RepoId,
        files: &[&Outgoing],
        progress: &mut Progress,
    ) -> Result<(), HubError> {
        if files.is_empty() {
            return Ok(());
        }
        let objects: Vec<Value> = files
            .iter()
            .map(|file| json!({"oid": file.sha256, "size": file.bytes}))
            .collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic"],
            "objects": objects,
            "hash_algo": "sha256",
            "ref": {"name": id.revision()},
        });
        let to = self.address(&format!("{}.git/info/lfs/objects/batch", id.repository()))?;
        let (body, report) = (body.to_string(), progress.reporter());
        let answer = self.insist(self.patience.attempts, report, || {
            self.post(id, &to, &LFS, body.as_bytes(), ANSWER_BYTES)
        })?;
        let answer = read(id, &answer)?;
        files
            .iter()
            .try_for_each(|file| self.upload_one(id, &answer, file, progress))
    }

    fn upload_one(
        &self,
        id: &RepoId,
        answer: &Value,
        file: &Outgoing,
        progress: &mut Progress,
    ) -> Result<(), HubError> {
        let refused = |reason: String| HubError::Refused {
            id: id.to_string(),
            reason: printable(&format!("`{}`: {reason}", file.name)),
        };
        let mut objects = answer["objects"].as_array().into_iter().flatten();
        let object = objects.find(|object| object["oid"] == json!(file.sha256));
        let object =
            object.ok_or_else(|| refused("it does not say where that is to be sent".to_owned()))?;
        if let Some(message) = object["error"]["message"].as_str() {
            return Err(refused(message.to_owned()));
        }
        let action = |name: &str| self.action(&object["actions"][name]).map_err(refused);
        // Nothing to do: the content is already there.
        let Some(upload) = action("upload")? else {
            return Ok(());
        };
        if upload.headers.iter().any(|(name, _)| name == "chunk_size") {
            return Err(refused(
                "it wants that in parts, which is not supported yet".to_owned(),
            ));
        }
        let report = progress.reporter();
        self.insist(self.patience.attempts, report, || {
            self.put(id, &upload, file, progress)
        })?;
        let Some(verify) = action("verify")? else {
            return Ok(());
        };
        let body = json!({"oid": file.sha256, "size": file.bytes}).to_string();
        self.insist(self.patience.attempts, report, || {
            self.post(id, &verify.to, &[JSON], body.as_bytes(), ANSWER_BYTES)
        })
        .map(drop)
    }

    /// Returns an action of an answer, if there is one.
    fn action(&self, action: &Value) -> Result<Option<Action>, String> {
        if action.is_null() {
            return Ok(None);
        }
        let href = action["href"].as_str().ok_or("it gives no address")?;
        let to = Location::parse(href)
            .map_err(|reason| format!("it gives `{}`, which is {reason}", printable(href)))?;
        let is_safe = to.is_https() || to.is_loopback() || !self.endpoint().starts_with("https:");
        if !is_safe {
            return Err(format!("it gives `{}`, which is plain http", to.shown()));
        }
        let headers = action["header"].as_object().into_iter().flatten();
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        Ok(Some(Action {
            to,
            headers: headers
                .map(|(name, value)| (name.clone(), text(value)))
                .collect(),
        }))
    }

    /// Makes one attempt, from the first byte. The address is signed and gets no token.
    fn put(
        &self,
        id: &RepoId,
        action: &Action,
        file: &Outgoing,
        progress: &mut Progress,
    ) -> Result<(), Failed> {
        let mut request = Request::put(action.to.uri()).header("Content-Length", file.bytes);
        for (name, value) in &action.headers {
            request = request.header(name, value);
        }
        let before = progress.done_bytes;
        let mut reader = Counted {
            reader: open(file.content)?,
            name: &file.name,
            progress: &mut *progress,
        };
        let sent = self.send_without_token(request, &action.to, SendBody::from_reader(&mut reader));
        drop(reader);
        let done = sent.and_then(|response| self.checked(id, &action.to, Access::Write, response));
        if done.is_err() {
            progress.lost(progress.done_bytes - before);
        }
        done.map(drop)
    }
}

/// Reader that reports how much was read.
struct Counted<'a, 'b> {
    reader: Box<dyn Read + 'a>,
    name: &'a str,
    progress: &'a mut Progress<'b>,
}

impl Read for Counted<'_, '_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(piece)?;
        if length > 0 {
            self.progress.moved(self.name, length as u64);
        }
        Ok(length)
    }
}
