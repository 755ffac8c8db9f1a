//! Manifest of a folder: a list of its files with the size and BLAKE3 hash of each.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::{
    FileError, copy, create_folder, hash_file, read_text, write_atomic, write_folder_atomic,
};

/// Name of the manifest file.
pub const MANIFEST: &str = "manifest.json";

/// Size and hash of a file as it was written.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ManifestEntry {
    bytes: u64,
    blake3: String,
}

/// Writes the manifest of a folder, as the last of its files.
///
/// # Errors
/// A file cannot be read, or the manifest cannot be written.
pub fn write_manifest(folder: &Path) -> Result<(), FileError> {
    let entries = entries(folder)?;
    let text = serde_json::to_string_pretty(&entries).expect("names and numbers can be printed");
    write_atomic(&folder.join(MANIFEST), (text + "\n").as_bytes())
}

/// Reason why a folder does not match its manifest.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// The first mismatch, in words.
    #[error("{0}")]
    Differs(String),
    /// A file cannot be read, so its content is unknown.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Checks that a folder holds the files of its manifest. Other files, such as those of file
/// managers, are ignored.
///
/// # Errors
/// The folder does not match its manifest, or cannot be read.
pub fn verify_manifest(folder: &Path) -> Result<(), Unproven> {
    let text = read_text(&folder.join(MANIFEST)).map_err(unproven)?;
    let said: BTreeMap<String, ManifestEntry> = serde_json::from_str(&text)
        .map_err(|error| Unproven::Differs(format!("its {MANIFEST} is not valid: {error}")))?;
    for (name, said) in said {
        let is_below = Path::new(&name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !is_below {
            return Err(Unproven::Differs(format!(
                "its {MANIFEST} names `{name}`, expected a file in the folder"
            )));
        }
        let path = folder.join(&name);
        let found = entry(&path).map_err(unproven)?;
        if said.bytes != found.bytes {
            return Err(Unproven::Differs(format!(
                "`{name}` has {} bytes, expected {}",
                found.bytes, said.bytes
            )));
        }
        if said != found {
            return Err(Unproven::Differs(format!(
                "`{name}` is not what was written: its blake3 differs"
            )));
        }
    }
    Ok(())
}

/// Converts an error of reading a listed file: a missing file is a mismatch, a failing disk is not.
pub fn unproven(error: FileError) -> Unproven {
    use ErrorKind::{
        InvalidData, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound,
    };
    match error.cause.kind() {
        NotFound => Unproven::Differs(format!("`{}` is missing", error.path.display())),
        InvalidData | InvalidFilename | InvalidInput | IsADirectory | NotADirectory => {
            Unproven::Differs(error.to_string())
        }
        _ => Unproven::File(error),
    }
}

/// Makes a folder a copy of another one, atomically, unless it already holds the same files.
///
/// # Errors
/// The source cannot be read, or the copy cannot be written.
pub fn mirror(from: &Path, to: &Path) -> Result<(), FileError> {
    let entries = entries(from)?;
    if entries
        .iter()
        .all(|(name, entry)| self::entry(&to.join(name)).is_ok_and(|found| found == *entry))
    {
        return Ok(());
    }
    write_folder_atomic(to, |new| {
        entries.keys().try_for_each(|name| {
            let path = new.join(name);
            create_folder(path.parent().unwrap_or(new))?;
            copy(&from.join(name), &path)
        })
    })
}

fn entry(path: &Path) -> Result<ManifestEntry, FileError> {
    let bytes = path
        .metadata()
        .map_err(|cause| FileError::new("read", path, cause))?
        .len();
    Ok(ManifestEntry {
        bytes,
        blake3: hash_file(path)?.to_string(),
    })
}

/// Returns every file below the folder except the manifest, by its name with `/` as separator.
fn entries(folder: &Path) -> Result<BTreeMap<String, ManifestEntry>, FileError> {
    let mut entries = BTreeMap::new();
    collect(folder, "", &mut entries)?;
    Ok(entries)
}

fn collect(
    folder: &Path,
    prefix: &str,
    entries: &mut BTreeMap<String, ManifestEntry>,
) -> Result<(), FileError> {
    let failed = |cause| FileError::new("read", folder, cause);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (
            entry.path(),
            format!("{prefix}{}", entry.file_name().to_string_lossy()),
        );
        if path.is_dir() {
            collect(&path, &format!("{name}/"), entries)?;
        } else if name != MANIFEST {
            entries.insert(name, self::entry(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_changes_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        write_atomic(&path("adapter/a"), b"12345").expect("written");
        write_atomic(&path("b"), b"").expect("written");
        assert!(verify_manifest(dir.path()).is_err(), "no list yet");
        write_manifest(dir.path()).expect("written");
        verify_manifest(dir.path()).expect("as it was written");

        let verdict = |name: &str, content: Option<&[u8]>| {
            let old = fs::read(path(name)).ok();
            match content {
                Some(content) => fs::write(path(name), content).expect("written"),
                None => fs::remove_file(path(name)).expect("removed"),
            }
            let verdict = verify_manifest(dir.path()).map_err(|reason| reason.to_string());
            match old {
                Some(old) => fs::write(path(name), old).expect("written"),
                None => fs::remove_file(path(name)).expect("removed"),
            }
            verdict.err().unwrap_or_default()
        };
        assert_eq!(
            verdict("adapter/a", Some(b"1234")),
            "`adapter/a` has 4 bytes, expected 5"
        );
        assert_eq!(
            verdict("adapter/a", Some(b"12346")),
            "`adapter/a` is not what was written: its blake3 differs"
        );
        assert!(verdict("b", None).ends_with("b` is missing"));
        assert_eq!(
            verdict(".DS_Store", Some(b"")),
            "",
            "what others leave there does not count"
        );
        let climbs = br#"{"../b": {"bytes": 0, "blake3": ""}}"#;
        assert_eq!(
            verdict(MANIFEST, Some(climbs)),
            "its manifest.json names `../b`, expected a file in the folder"
        );
        assert!(verdict(MANIFEST, Some(b"{")).starts_with("its manifest.json is not valid"));
        verify_manifest(dir.path()).expect("as it was written");
    }
}
