//! Files to a repository in one commit, as `huggingface_hub` does it
//! (<https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/_commit_api.py>):
//! the repository is made if it is not there, the Hub says which files are large, those go to where
//! it says, and the commit names all of them.

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

/// Bytes of an answer at most.
pub(super) const ANSWER_BYTES: u64 = 1 << 20;
/// Bytes of a file that goes into the commit itself at most; the Hub takes larger ones by
/// themselves.
const REGULAR_BYTES: u64 = 16 << 20;
pub(super) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Uploads files in one commit. What is there already as it is stays and is not sent again.
///
/// # Errors
/// There is no network, token or right, the Hub refuses, or a file cannot be read.
pub fn push(
    environment: &Environment,
    shipment: &Shipment,
    report: Reporter,
) -> Result<Pushed, HubError> {
    push_with(environment, Patience::default(), shipment, report)
}

/// [`push`] with another patience.
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

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It is there as it is.
    Unchanged,
    /// It goes into the commit.
    Regular,
    /// It goes by itself.
    Large,
}

impl Client {
    /// Makes the repository, if it is not there.
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
            // A token for this repository alone may write there and make none.
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

    /// What the Hub says of a repository.
    fn about(&self, id: &RepoId, report: Reporter) -> Result<Value, HubError> {
        let from = self.address(&format!("api/models/{}", id.repository()))?;
        let answer = self.insist(self.patience.attempts, report, || {
            self.get_small(id, from.clone(), 16 * ANSWER_BYTES)
        })?;
        read(id, &answer)
    }

    /// Asks which files are large, and which are there already.
    fn modes(
        &self,
        id: &RepoId,
        files: &[Outgoing],
        report: Reporter,
    ) -> Result<Vec<Mode>, HubError> {
        let entry = |file: &Outgoing| json!({"path": file.name, "sample": STANDARD.encode(&file.sample), "size": file.bytes});
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

    /// Makes the commit. It is not tried again: where an answer is lost it may have been made.
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
                let value = json!({"path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.bytes});
                json!({"key": "lfsFile", "value": value})
            } else {
                let value = json!({"content": STANDARD.encode(file.read()?), "path": file.name, "encoding": "base64"});
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
            reason: "it made a commit and \
        names none"
                .to_owned(),
        })
    }
}

/// What the answer says of a file.
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
        // Where there is nothing to send an upload of its own fails.
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
        reason: format!(
            "it is not valid \
    JSON: {error}"
        ),
    };
    serde_json::from_slice(answer).map_err(refused)
}
