//! The Hub's listing of a dataset: all file names, with size and hash of the files that may be
//! read.

use std::collections::BTreeMap;

use super::HubError;
use super::id::{Commit, RepoId};
use super::listing::{RemoteFile, commit_and_siblings, name_of, remote_file};
use super::names::{is_card, is_portable_path, leads_out};
use crate::fault::printable;

/// Listing of a dataset at a commit.
#[derive(Debug)]
pub(super) struct DatasetListing {
    pub commit: Commit,
    /// Names of all files, sorted.
    pub names: Vec<String>,
    /// Parquet files, the card and the licenses, by name.
    files: BTreeMap<String, RemoteFile>,
}

impl DatasetListing {
    /// Reads the answer to `GET /api/datasets/ID/revision/REVISION?blobs=true`, which has the same
    /// form as for a model.
    ///
    /// # Errors
    /// A name leads out of the folder, a commit or hash is invalid, or sizes or hashes are missing.
    pub fn read(id: &RepoId, json: &[u8]) -> Result<Self, HubError> {
        let refused = |reason: String| HubError::Refused {
            id: id.to_string(),
            reason: printable(&reason),
        };
        let (commit, siblings) = commit_and_siblings(id, json).map_err(refused)?;
        let (mut names, mut files, mut lower) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for sibling in &siblings {
            let name = name_of(sibling).map_err(refused)?;
            if let Some(reason) = leads_out(name) {
                return Err(refused(format!("it names a file `{name}`, which {reason}")));
            }
            names.push(name.to_owned());
            if !name.ends_with(".parquet") && !is_card(name) {
                continue;
            }
            if !is_portable_path(name) {
                return Err(refused(format!(
                    "it names a file `{name}`, which is no name that every system has room for"
                )));
            }
            // On some systems, `A` and `a` are the same file.
            if let Some(twin) = lower.insert(name.to_lowercase(), name) {
                return Err(refused(format!("it names both `{twin}` and `{name}`")));
            }
            files.insert(
                name.to_owned(),
                remote_file(name, sibling).map_err(refused)?,
            );
        }
        names.sort();
        Ok(Self {
            commit,
            names,
            files,
        })
    }

    /// Returns the card and the licenses.
    pub fn cards(&self) -> Vec<RemoteFile> {
        self.files
            .values()
            .filter(|file| is_card(&file.name))
            .cloned()
            .collect()
    }

    /// Returns files by name; names that are not listed are left out.
    pub fn files<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<RemoteFile> {
        names
            .into_iter()
            .filter_map(|name| self.files.get(name).cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn names_are_all_listed_and_files_of_use_have_sizes_and_hashes() {
        let id = RepoId::parse_dataset("owner/name").expect("an id");
        let read = |siblings| {
            DatasetListing::read(
                &id,
                json!({"sha": SHA, "siblings": siblings})
                    .to_string()
                    .as_bytes(),
            )
        };
        let listing = read(json!([
            {
                "rfilename": "data/b.parquet",
                "size": 5,
                "blobId": SHA,
                "lfs": {"sha256": "a".repeat(64), "size": 5},
            },
            {"rfilename": "README.md", "size": 3, "blobId": SHA},
            {"rfilename": "raw.jsonl"},
        ]))
        .expect("read");
        assert_eq!(listing.names, ["README.md", "data/b.parquet", "raw.jsonl"]);
        assert_eq!(
            listing
                .cards()
                .iter()
                .map(|file| &*file.name)
                .collect::<Vec<_>>(),
            ["README.md"]
        );
        assert_eq!(listing.files(&listing.names).len(), 2);
        for (sibling, part) in [
            (
                json!({"rfilename": "../x.parquet", "size": 1, "blobId": SHA}),
                "which leads out of its folder",
            ),
            (
                json!({"rfilename": "a/../../x.jsonl"}),
                "which leads out of its folder",
            ),
            (
                json!({"rfilename": "con.parquet", "size": 1, "blobId": SHA}),
                "no name that every system has room for",
            ),
            (
                json!({"rfilename": "x.parquet", "blobId": SHA}),
                "`x.parquet` has no size",
            ),
            (
                json!({"rfilename": "x.parquet", "size": 1}),
                "`x.parquet` has no hash",
            ),
        ] {
            let error = read(json!([sibling])).expect_err(part);
            assert!(
                matches!(error, HubError::Refused { .. }) && error.to_string().contains(part),
                "{error}"
            );
        }
    }
}
