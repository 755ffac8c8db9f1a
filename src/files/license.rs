//! Licenses of a folder: stated at the top of README.md, or in files such as LICENSE.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FileError, Hash, guarded, hash_bytes, is_there, open_file, write_atomic};

/// Prefixes of the names of license files and related notices.
const NOTICES: [&str; 5] = ["LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"];
/// Most bytes that are read of a license file.
const NOTICE_BYTES: u64 = 4 << 20;
/// Most license files that are read, more than any folder has.
const MAX_NOTICES: usize = 32;
/// Most bytes that are read of a README.md; the metadata comes first.
const HEAD_BYTES: u64 = 64 << 10;

/// License stated in the metadata of a README.md
/// (<https://huggingface.co/docs/hub/repositories-licenses>).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct License {
    /// Identifier, such as `apache-2.0`, or several separated by commas.
    pub id: String,
    /// Name of an `other` license.
    pub name: Option<String>,
    /// Location of the text: a file in the same folder, or a URL.
    pub link: Option<String>,
}

impl License {
    /// Returns the license that the metadata of a README.md states, if it states one.
    pub fn stated(head: &Map<String, Value>) -> Option<Self> {
        let word = |value: &Value| {
            value
                .as_str()
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
        };
        let of = |key: &str| head.get(key).and_then(word);
        let id = match head.get("license")? {
            Value::Array(items) => {
                Some(items.iter().filter_map(word).collect::<Vec<_>>().join(", "))
            }
            value => word(value),
        };
        Some(Self {
            id: id.filter(|id| !id.is_empty())?,
            name: of("license_name"),
            link: of("license_link"),
        })
    }
}

/// Reads the YAML metadata at the top of a README.md, between two lines of three hyphens. Returns
/// an empty map if there is none or it cannot be read.
pub fn readme_head(path: &Path) -> Map<String, Value> {
    let mut bytes = Vec::new();
    let read = open_file(path).map(|file| file.take(HEAD_BYTES).read_to_end(&mut bytes).is_ok());
    let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
    let head = text
        .trim_start_matches('\u{feff}')
        .strip_prefix("---\n")
        .and_then(|rest| Some(rest.split_once("\n---")?.0));
    let parsed = head
        .filter(|_| read.unwrap_or(false))
        .map(|head| guarded(|| serde_yaml::from_str(head)));
    parsed
        .and_then(Result::ok)
        .and_then(Result::ok)
        .unwrap_or_default()
}

/// Returns whether a file with this name is a license or a related notice.
pub fn is_notice(name: &str) -> bool {
    NOTICES.iter().any(|start| name.starts_with(start))
}

/// Returns the sorted paths of the license files in a folder, or nothing if the folder cannot be
/// listed.
pub fn notice_paths(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_notice)
            && path.is_file()
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_one).collect();
    paths.sort();
    paths
}

/// Refuses license files that are dangling links.
fn dead_links(folder: &Path) -> Result<(), FileError> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut named = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_notice));
    named.try_for_each(|entry| is_there(&entry.path()).map(drop))
}

/// License files of a folder, to be copied beside files derived from it.
#[derive(Debug, Clone, Default)]
pub struct Notices(Vec<(String, Vec<u8>)>);

impl Notices {
    /// Reads the license files of a folder.
    ///
    /// # Errors
    /// A file cannot be read, or there are more or larger files than any model has.
    pub fn read(folder: &Path) -> Result<Self, FileError> {
        dead_links(folder)?;
        let paths = notice_paths(folder);
        let failed =
            |path: &Path, said: String| FileError::new("read", path, std::io::Error::other(said));
        if paths.len() > MAX_NOTICES {
            return Err(failed(
                folder,
                format!(
                    "it has {} license files, at most {MAX_NOTICES} are taken along",
                    paths.len()
                ),
            ));
        }
        let read = |path: PathBuf| {
            let mut bytes = Vec::new();
            let taken = open_file(&path)?
                .take(NOTICE_BYTES + 1)
                .read_to_end(&mut bytes);
            taken.map_err(|cause| FileError::new("read", &path, cause))?;
            if bytes.len() as u64 > NOTICE_BYTES {
                return Err(failed(
                    &path,
                    format!(
                        "a license file larger than {} MiB is not taken along",
                        NOTICE_BYTES >> 20
                    ),
                ));
            }
            Ok((
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                bytes,
            ))
        };
        paths
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns the name and hash of each file.
    pub fn hashes(&self) -> Vec<(String, Hash)> {
        self.0
            .iter()
            .map(|(name, bytes)| (name.clone(), hash_bytes(bytes)))
            .collect()
    }

    /// Returns the path of the first file in `folder` that has one of these names but another
    /// content.
    pub fn first_other(&self, folder: &Path) -> Option<PathBuf> {
        let differs = |path: &PathBuf, bytes: &[u8]| {
            path.exists() && std::fs::read(path).ok().as_deref() != Some(bytes)
        };
        let mut places = self
            .0
            .iter()
            .map(|(name, bytes)| (folder.join(name), bytes));
        places
            .find(|(path, bytes)| differs(path, bytes))
            .map(|(path, _)| path)
    }

    /// Writes the files into another folder, under the same names.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), FileError> {
        self.0
            .iter()
            .try_for_each(|(name, bytes)| write_atomic(&folder.join(name), bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(readme: &str) -> Option<License> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("README.md");
        std::fs::write(&path, readme).expect("written");
        License::stated(&readme_head(&path))
    }

    #[test]
    fn a_license_is_read_from_the_head_alone() {
        let plain = |id: &str| {
            Some(License {
                id: id.to_owned(),
                name: None,
                link: None,
            })
        };
        assert_eq!(
            stated("---\nlicense: apache-2.0\ntags: [a]\n---\n# license: mit\n"),
            plain("apache-2.0")
        );
        assert_eq!(
            stated("\u{feff}---\r\nlicense:\r\n- mit\r\n- cc0-1.0\r\n---\r\n"),
            plain("mit, cc0-1.0")
        );
        let other = stated("---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---")
            .expect("stated");
        assert_eq!(
            (other.name.as_deref(), other.link.as_deref()),
            (Some("llama3"), Some("LICENSE"))
        );
        for nothing in [
            "",
            "# x\nlicense: mit\n",
            "---\nlicense: mit\n",
            "---\nlicense: {a: 1}\n---",
            "---\n[\n---",
            "---\nlicense:\n---",
        ] {
            assert_eq!(stated(nothing), None, "{nothing:?}");
        }
        assert_eq!(readme_head(Path::new("none")), Map::new());
    }

    #[test]
    fn licenses_go_along_whole_or_are_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        std::fs::create_dir_all(from.join("LICENSES")).expect("made");
        std::fs::create_dir(&to).expect("made");
        for name in ["LICENSE.txt", "NOTICE", "README.md"] {
            std::fs::write(from.join(name), b"\xffold").expect("written");
        }
        let notices = Notices::read(&from).expect("read");
        assert_eq!(
            notices
                .hashes()
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            ["LICENSE.txt", "NOTICE"]
        );
        notices.write(&to).expect("written");
        assert_eq!(
            (
                std::fs::read(to.join("NOTICE")).expect("there"),
                notices.first_other(&to)
            ),
            (b"\xffold".to_vec(), None)
        );
        std::fs::write(to.join("NOTICE"), "mine").expect("written");
        assert_eq!(notices.first_other(&to), Some(to.join("NOTICE")));
        std::fs::write(
            from.join("COPYING"),
            vec![b'x'; (NOTICE_BYTES + 1) as usize],
        )
        .expect("written");
        assert!(
            Notices::read(&from)
                .expect_err("too large")
                .to_string()
                .ends_with("larger than 4 MiB is not taken along")
        );
    }
}
