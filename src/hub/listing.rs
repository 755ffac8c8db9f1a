//! The Hub's listing of a repository, trusted only as far as it can be checked.

use std::collections::BTreeMap;

use serde_json::Value;

use super::HubError;
use super::digest::Digest;
use super::id::{Commit, RepoId, is_hex};
use super::names::{FileStatus, is_pickle, is_weights, status};
use crate::fault::printable;
use crate::files::listed;

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub name: String,
    pub bytes: u64,
    pub digest: Digest,
}

/// A commit with its files to download.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: Commit,
    /// Files in the order of their names.
    pub files: Vec<RemoteFile>,
    /// Number of files that are not downloaded.
    pub skipped: usize,
}

impl Listing {
    /// Reads the answer to `GET /api/models/ID/revision/REVISION?blobs=true`: the commit as `sha`,
    /// and files as `siblings` with `rfilename`, `size`, and `blobId` or `lfs.sha256`.
    ///
    /// # Errors
    /// A name leads out of the folder, a commit or hash is invalid, sizes or hashes are missing, or
    /// there are no weights in safetensors.
    pub fn read(id: &RepoId, json: &[u8]) -> Result<Self, HubError> {
        let refused = |reason: String| HubError::Refused {
            id: id.to_string(),
            reason: printable(&reason),
        };
        let (commit, siblings) = commit_and_siblings(id, json).map_err(refused)?;
        let (mut files, mut pickles, mut skipped) = (BTreeMap::new(), Vec::new(), 0);
        for sibling in &siblings {
            let name = name_of(sibling).map_err(refused)?;
            match status(name) {
                FileStatus::Hostile(reason) => {
                    return Err(refused(format!("it names a file `{name}`, which {reason}")));
                }
                FileStatus::Skipped => {
                    skipped += 1;
                    pickles.extend(is_pickle(name).then(|| format!("`{}`", printable(name))));
                }
                FileStatus::Wanted => {
                    let file = remote_file(name, sibling).map_err(refused)?;
                    // On some systems, `A` and `a` are the same file.
                    if let Some(twin) = files.insert(name.to_lowercase(), file) {
                        return Err(refused(format!(
                            "it names both `{}` and `{name}`",
                            twin.name
                        )));
                    }
                }
            }
        }
        let mut files: Vec<RemoteFile> = files.into_values().collect();
        skipped += drop_consolidated(&mut files);
        if !files.iter().any(|file| is_weights(&file.name)) {
            return Err(HubError::NoWeights {
                id: id.to_string(),
                pickles: listed(&pickles),
            });
        }
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self {
            commit,
            files,
            skipped,
        })
    }
}

/// Reads the commit and the list of files of an answer. The error says why the answer is refused.
pub(super) fn commit_and_siblings(
    id: &RepoId,
    json: &[u8],
) -> Result<(Commit, Vec<Value>), String> {
    let mut answer: Value =
        serde_json::from_slice(json).map_err(|error| format!("it is not valid JSON: {error}"))?;
    let sha = answer["sha"].as_str().ok_or("it names no commit")?;
    let commit = Commit::parse(sha)
        .ok_or_else(|| format!("its commit is `{sha}`, expected 40 hexadecimal digits"))?;
    if id.pinned().is_some_and(|pinned| pinned != commit) {
        return Err(format!(
            "its commit is {commit}, asked was for {}",
            id.revision()
        ));
    }
    match answer["siblings"].take() {
        Value::Array(siblings) => Ok((commit, siblings)),
        _ => Err("it lists no files".to_owned()),
    }
}

/// Returns the name of a listed file.
pub(super) fn name_of(sibling: &Value) -> Result<&str, String> {
    sibling["rfilename"]
        .as_str()
        .ok_or_else(|| format!("a file has no name: {sibling}"))
}

/// Reads a listed file with its size and hash.
pub(super) fn remote_file(name: &str, sibling: &Value) -> Result<RemoteFile, String> {
    let size = |value: &Value| value["size"].as_u64();
    let hash = |text: Option<&str>, digits: usize| {
        let text = text.ok_or_else(|| format!("`{name}` has no hash"))?;
        let said =
            || format!("the hash of `{name}` is `{text}`, expected {digits} hexadecimal digits");
        if is_hex(text, digits) {
            Ok(text.to_owned())
        } else {
            Err(said())
        }
    };
    let lfs = Some(&sibling["lfs"]).filter(|lfs| lfs.is_object());
    let (bytes, digest) = match lfs {
        Some(lfs) => (
            size(lfs).or_else(|| size(sibling)),
            Digest::Sha256(hash(lfs["sha256"].as_str(), 64)?),
        ),
        None => (
            size(sibling),
            Digest::GitBlob(hash(sibling["blobId"].as_str(), 40)?),
        ),
    };
    let bytes = bytes.ok_or_else(|| format!("`{name}` has no size"))?;
    Ok(RemoteFile {
        name: name.to_owned(),
        bytes,
        digest,
    })
}

/// Removes `consolidated` weights, a second copy of the same weights in another layout, and returns
/// how many files were removed.
fn drop_consolidated(files: &mut Vec<RemoteFile>) -> usize {
    let before = files.len();
    if files
        .iter()
        .any(|file| is_weights(&file.name) && file.name.starts_with("model"))
    {
        files.retain(|file| !file.name.starts_with("consolidated"));
    }
    before - files.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fault::Explain;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn read(answer: &Value) -> Result<Listing, HubError> {
        Listing::read(
            &RepoId::parse("owner/name").expect("an id"),
            answer.to_string().as_bytes(),
        )
    }

    fn file(name: &str) -> Value {
        json!({"rfilename": name, "size": 3, "blobId": SHA})
    }

    fn weights(name: &str) -> Value {
        let lfs = json!({"sha256": "a".repeat(64), "size": 5, "pointerSize": 130});
        json!({"rfilename": name, "size": 5, "blobId": SHA, "lfs": lfs})
    }

    #[test]
    fn files_have_size_and_hash() {
        let siblings = [
            file("config.json"),
            weights("model.safetensors"),
            weights("consolidated.safetensors"),
            file("pytorch_model.bin"),
        ];
        let listing = read(&json!({"sha": SHA, "siblings": siblings})).expect("read");
        let names: Vec<_> = listing
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.bytes, file.digest.text().len()))
            .collect();
        assert_eq!(
            names,
            [("config.json", 3, 40), ("model.safetensors", 5, 64)]
        );
        assert_eq!((listing.commit.as_str(), listing.skipped), (SHA, 2));
    }

    #[test]
    fn what_cannot_be_is_refused_with_both_sides() {
        let with = |sibling: Value| {
            let siblings = [sibling, weights("model.safetensors")];
            json!({"sha": SHA, "siblings": siblings})
        };
        let hash = |hash: &str| {
            let lfs = json!({"sha256": hash, "size": 5});
            json!({"rfilename": "a.safetensors", "size": 5, "lfs": lfs})
        };
        let cases = [
            (json!([]), "it names no commit"),
            (
                json!({"sha": "../../x", "siblings": []}),
                "its commit is `../../x`, expected 40",
            ),
            (
                json!({"sha": SHA.to_uppercase(), "siblings": []}),
                "expected 40 hexadecimal digits",
            ),
            (json!({"sha": SHA}), "it lists no files"),
            (with(json!({"size": 1})), "a file has no name"),
            (
                with(file("../x")),
                "a file `../x`, which leads out of its folder",
            ),
            (with(file("sub/../../x")), "which leads out of its folder"),
            (
                with(file("a\u{0}b")),
                "a file `a\\u{0}b`, which has control characters",
            ),
            (
                with(file("MODEL.safetensors")),
                "it names both `MODEL.safetensors` and `model.safetensors`",
            ),
            (with(weights("model.safetensors")), "it names both"),
            (
                with(json!({"rfilename": "config.json", "size": 3})),
                "`config.json` has no hash",
            ),
            (
                with(json!({"rfilename": "config.json", "blobId": SHA})),
                "`config.json` has no size",
            ),
            (
                with(json!({"rfilename": "config.json", "size": -3, "blobId": SHA})),
                "`config.json` has no size",
            ),
            (
                with(json!({"rfilename": "config.json", "size": 3, "blobId": "../../x"})),
                "the hash of `config.json` is `../../x`",
            ),
            (
                with(hash("../../../../etc/cron.d/x")),
                "expected 64 hexadecimal digits",
            ),
            (with(hash(SHA)), "expected 64 hexadecimal digits"),
        ];
        for (answer, part) in cases {
            let error = read(&answer).expect_err(part);
            assert!(
                matches!(error, HubError::Refused { .. }) && error.to_string().contains(part),
                "{part}: {error}"
            );
            assert!(error.hint().is_some());
        }
        let error = read(
            &json!({"sha": SHA, "siblings": [file("pytorch_model.bin"), file("config.json")]}),
        )
        .expect_err("pickles");
        assert!(
            error
                .to_string()
                .ends_with("has no safetensors file, only `pytorch_model.bin`"),
            "{error}"
        );
        let other = RepoId::parse(&format!("owner/name@{}", SHA.replace('0', "1"))).expect("an id");
        let error = Listing::read(
            &other,
            json!({"sha": SHA, "siblings": []}).to_string().as_bytes(),
        )
        .expect_err("another commit");
        assert!(error.to_string().contains("asked was for 1123"), "{error}");
    }
}
