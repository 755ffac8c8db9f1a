//! Licenses as folders state them: in the head of a README.md, and in files whose names say what
//! they are.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FileError, Hash, guarded, hash_bytes, is_there, open_file, write_atomic};

/// How the names of licenses, and of what goes with them, begin.
const NOTICES: [&str; 5] = ["LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"];
/// The most that is read of a license.
const NOTICE_BYTES: u64 = 4 << 20;
/// More licenses than any folder has.
const MAX_NOTICES: usize = 32;
/// The most of a README.md that is looked at: its head stands first.
const HEAD_BYTES: u64 = 64 << 10;

/// A license as the head of a README.md states it
/// (<https://huggingface.co/docs/hub/repositories-licenses>).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct License {
    /// Its identifier, such as `apache-2.0`, or several with commas.
    pub id: String,
    /// What an `other` license is called.
    pub name: Option<String>,
    /// Where its text is: a file of the same folder, or an address.
    pub link: Option<String>,
}

impl License {
    /// The license that the head of a README.md states, if it does.
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
            Value::Array(items) => Some(items.iter().filter_map(word).collect::<Vec<_>>().join(
                ", \
            ",
            )),
            value => word(value),
        };
        Some(Self {
            id: id.filter(|id| !id.is_empty())?,
            name: of("license_name"),
            link: of("license_link"),
        })
    }
}

/// The values at the head of a README.md, between two lines of three hyphens; nothing where there
/// is none that can be read.
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

/// Whether a file of this name is a license, or goes with one.
pub fn is_notice(name: &str) -> bool {
    NOTICES.iter().any(|start| name.starts_with(start))
}

/// Paths of the licenses in a folder, sorted; none where it cannot be listed.
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

/// Refuses licenses that are there by name alone.
fn dead_links(folder: &Path) -> Result<(), FileError> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut named = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_notice));
    named.try_for_each(|entry| is_there(&entry.path()).map(drop))
}

/// The licenses of a folder, to be laid beside what is made of its files.
#[derive(Debug, Clone, Default)]
pub struct Notices(Vec<(String, Vec<u8>)>);

impl Notices {
    /// Reads them.
    ///
    /// # Errors
    /// One cannot be read, or there are more, or larger ones, than any model has.
    pub fn read(folder: &Path) -> Result<Self, FileError> {
        dead_links(folder)?;
        let paths = notice_paths(folder);
        let failed =
            |path: &Path, said: String| FileError::new("read", path, std::io::Error::other(said));
        if paths.len() > MAX_NOTICES {
            return Err(failed(
                folder,
                format!(
                    "it has {} license files, at most {MAX_NOTICES} are \
            taken along",
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
                        "a license file larger than {} MiB is not taken \
                along",
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

    /// Their names with the hash of each.
    pub fn hashes(&self) -> Vec<(String, Hash)> {
        self.0
            .iter()
            .map(|(name, bytes)| (name.clone(), hash_bytes(bytes)))
            .collect()
    }

    /// The first of them whose place in `folder` has a file with another content.
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

    /// Writes them into another folder, under their names.
    ///
    /// # Errors
    /// One cannot be written.
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
            plain(
                "mit, \
        cc0-1.0"
            )
        );
        let other = stated(
            "---\nlicense: other\nlicense_name: llama3\nlicense_link: \
        LICENSE\n---",
        )
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
                .ends_with(
                    "larger than 4 \
        MiB is not taken along"
                )
        );
    }
}
