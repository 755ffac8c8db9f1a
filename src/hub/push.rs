//! Push of files to a repository in one commit, as `huggingface_hub` does it
//! (<https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/_commit_api.py>).
//!
//! A missing repository is created, the Hub tells which files are large, those are uploaded where
//! it says, and the commit names all files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::Client;
use super::environment::Environment;
use super::error::{HubError, TokenUse};
use super::id::{Commit, RepoId};
use super::location::escaped;
use super::progress::Progress;
use super::retry::Patience;
use super::upload::Outgoing;
use super::{Pushed, Shipment, Visibility};
use crate::fault::printable;
use crate::report::Reporter;

/// Most bytes of an answer.
pub(super) const ANSWER_BYTES: u64 = 1 << 20;
/// Most bytes of a file inside the commit itself; the Hub takes larger ones as separate uploads.
const REGULAR_BYTES: u64 = 16 << 20;
pub(super) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Uploads files in one commit. Files that are already there unchanged are not sent again.
///
/// # Errors
/// The network, a token or the permission is missing, the Hub refuses, or a file cannot be read.
pub fn push(
    environment: &Environment,
    shipment: &Shipment,
    report: Reporter,
) -> Result<Pushed, HubError> {
    push_with(environment, Patience::default(), shipment, report)
}

/// Does the same as [`push`] with other time limits.
///
/// # Errors
/// As for [`push`].
pub fn push_with(
    environment: &Environment,
    patience: Patience,
    shipment: &Shipment,
    report: Reporter,
) -> Result<Pushed, HubError> {
    let client = Client::new(environment, patience, "a push")?;
    match client.token_at_hub() {
        TokenUse::Sent => {}
        TokenUse::Withheld => {
            return Err(HubError::PlainHttp {
                endpoint: client.endpoint().to_owned(),
            });
        }
        TokenUse::None => return Err(HubError::NoToken),
    }
    let files = shipment
        .files
        .iter()
        .map(|(name, content)| Outgoing::new(name, content))
        .collect::<Result<Vec<_>, _>>()?;
    client.create(&shipment.id, shipment.visibility, report)?;
    let modes = client.modes(&shipment.id, &files, report)?;
    let new: Vec<(&Outgoing, Mode)> = files
        .iter()
        .zip(modes)
        .filter(|(_, mode)| *mode != Mode::Unchanged)
        .collect();
    let large: Vec<&Outgoing> = new
        .iter()
        .filter(|(_, mode)| *mode == Mode::Large)
        .map(|(file, _)| *file)
        .collect();
    let mut progress = Progress::new(report, large.iter().map(|file| file.bytes).sum(), 0);
    client.upload(&shipment.id, &large, &mut progress)?;
    let commit = if new.is_empty() {
        None
    } else {
        Some(client.commit(shipment, &new, report)?)
    };
    Ok(Pushed {
        url: format!("{}/{}", client.endpoint(), shipment.id.repository()),
        commit,
        files: new
            .iter()
            .map(|(file, _)| (file.name.clone(), file.bytes))
            .collect(),
        uploaded_bytes: progress.moved_bytes,
    })
}

/// Way in which a file is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The file is already there.
    Unchanged,
    /// The file is part of the commit.
    Regular,
    /// The file is uploaded separately.
    Large,
}

impl Client {
    /// Creates the repository if it does not exist.
    fn create(
        &self,
        id: &RepoId,
        visibility: Visibility,
        report: Reporter,
    ) -> Result<(), HubError> {
        let (owner, name) = id.owner_and_name().unwrap_or(("", id.repository()));
        let mut body = json!({"type": "model", "name": name, "organization": owner});
        if visibility == Visibility::Private {
            body["private"] = json!(true);
        }
        let (to, body) = (self.address("api/repos/create")?, body.to_string());
        let made = self.insist(self.patience.attempts, report, || {
            self.post(id, &to, &[JSON], body.as_bytes(), ANSWER_BYTES)
        });
        match made {
            Ok(_) | Err(HubError::Status { status: 409, .. }) => {}
            // A token for this repository alone may write to it, but may not create one.
            Err(HubError::Denied { .. }) if self.about(id, report).is_ok() => {}
            Err(error) => return Err(error),
        }
        if visibility == Visibility::Private && self.about(id, report)?["private"] != json!(true) {
            return Err(HubError::Public {
                id: id.repository().to_owned(),
            });
        }
        Ok(())
    }

    /// Returns the Hub's description of a repository.
    fn about(&self, id: &RepoId, report: Reporter) -> Result<Value, HubError> {
        let from = self.address(&format!("api/models/{}", id.repository()))?;
        let answer = self.insist(self.patience.attempts, report, || {
            self.get_small(id, from.clone(), 16 * ANSWER_BYTES)
        })?;
        read(id, &answer)
    }

    /// Asks the Hub which files are large and which are already there.
    fn modes(
        &self,
        id: &RepoId,
        files: &[Outgoing],
        report: Reporter,
    ) -> Result<Vec<Mode>, HubError> {
        let entry = |file: &Outgoing| {
            let sample = STANDARD.encode(&file.sample);
            json!({"path": file.name, "sample": sample, "size": file.bytes})
        };
        let body = json!({"files": files.iter().map(entry).collect::<Vec<_>>()}).to_string();
        let to = self.address(&format!(
            "api/models/{}/preupload/{}",
            id.repository(),
            escaped(id.revision())
        ))?;
        let answer = self.insist(self.patience.attempts, report, || {
            self.post(id, &to, &[JSON], body.as_bytes(), ANSWER_BYTES)
        })?;
        let answer = read(id, &answer)?;
        files
            .iter()
            .map(|file| {
                mode(&answer, file).map_err(|reason| HubError::Refused {
                    id: id.to_string(),
                    reason,
                })
            })
            .collect()
    }

    /// Makes the commit. It is not retried: if the answer is lost, the commit may exist.
    fn commit(
        &self,
        shipment: &Shipment,
        files: &[(&Outgoing, Mode)],
        report: Reporter,
    ) -> Result<Commit, HubError> {
        let id = &shipment.id;
        let mut lines = vec![
            json!({"key": "header", "value": {"summary": shipment.message, "description": ""}}),
        ];
        for (file, mode) in files {
            lines.push(if *mode == Mode::Large {
                let value = json!({
                    "path": file.name,
                    "algo": "sha256",
                    "oid": file.sha256,
                    "size": file.bytes,
                });
                json!({"key": "lfsFile", "value": value})
            } else {
                let content = STANDARD.encode(file.read()?);
                let value = json!({"content": content, "path": file.name, "encoding": "base64"});
                json!({"key": "file", "value": value})
            });
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let to = self.address(&format!(
            "api/models/{}/commit/{}",
            id.repository(),
            escaped(id.revision())
        ))?;
        let headers = [("Content-Type", "application/x-ndjson")];
        let once = || self.post(id, &to, &headers, body.as_bytes(), ANSWER_BYTES);
        let answer = read(id, &self.insist(1, report, once)?)?;
        let commit = answer["commitOid"].as_str().and_then(Commit::parse);
        commit.ok_or_else(|| HubError::Refused {
            id: id.to_string(),
            reason: "it made a commit and names none".to_owned(),
        })
    }
}

/// Reads the upload mode of a file from the answer.
fn mode(answer: &Value, file: &Outgoing) -> Result<Mode, String> {
    let entries = answer["files"].as_array().into_iter().flatten();
    let entry = entries
        .into_iter()
        .find(|entry| entry["path"] == json!(file.name));
    let entry =
        entry.ok_or_else(|| format!("it does not say how `{}` is to be sent", file.name))?;
    if entry["shouldIgnore"] == json!(true) {
        return Err(format!(
            "the repository's .gitignore leaves `{}` out",
            file.name
        ));
    }
    let there = entry["oid"].as_str();
    match entry["uploadMode"].as_str() {
        Some("lfs") if there == Some(&file.sha256) => Ok(Mode::Unchanged),
        Some("regular") if there == Some(&file.git_hash) => Ok(Mode::Unchanged),
        // An empty file cannot be uploaded separately.
        Some("lfs") if file.bytes > 0 => Ok(Mode::Large),
        Some("lfs" | "regular") if file.bytes <= REGULAR_BYTES => Ok(Mode::Regular),
        Some("lfs" | "regular") => Err(format!(
            "it wants `{}` of {} bytes within the commit",
            file.name, file.bytes
        )),
        other => Err(printable(&format!(
            "it wants `{}` to be sent as `{}`",
            file.name,
            other.unwrap_or_default()
        ))),
    }
}

pub(super) fn read(id: &RepoId, answer: &[u8]) -> Result<Value, HubError> {
    let refused = |error| HubError::Refused {
        id: id.to_string(),
        reason: format!("it is not valid JSON: {error}"),
    };
    serde_json::from_slice(answer).map_err(refused)
}
