//! A folder that can prove itself: a list of its files with size and blake3 of each.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, hash_file, read_text, write_atomic};

/// The file that lists the others.
pub const MANIFEST: &str = "manifest.json";

/// A file as it was written.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

/// Writes the list of everything in a folder, as the last of its files.
///
/// # Errors
/// A file cannot be read, or the list not be written.
pub fn write_manifest(folder: &Path) -> Result<(), Error> {
    let entries = entries(folder)?;
    let text = serde_json::to_string_pretty(&entries).expect("names and numbers can be printed");
    write_atomic(&folder.join(MANIFEST), (text + "\n").as_bytes())
}

/// Checks that a folder holds what its list says and nothing else.
///
/// # Errors
/// The first thing that does not fit, in words.
pub fn verify_manifest(folder: &Path) -> Result<(), String> {
    let text = read_text(&folder.join(MANIFEST)).map_err(|error| error.to_string())?;
    let said: BTreeMap<String, Entry> =
        serde_json::from_str(&text).map_err(|error| format!("its {MANIFEST} is not valid: {error}"))?;
    let found = entries(folder).map_err(|error| error.to_string())?;
    let names = said.keys().chain(found.keys());
    let Some(wrong) = names.into_iter().find(|name| said.get(*name) != found.get(*name)) else { return Ok(()) };
    Err(match (said.get(wrong), found.get(wrong)) {
        (Some(_), None) => format!("`{wrong}` is missing"),
        (None, _) => format!("`{wrong}` is not in its {MANIFEST}"),
        (Some(said), Some(found)) if said.bytes != found.bytes => {
            format!("`{wrong}` has {} bytes, expected {}", found.bytes, said.bytes)
        }
        _ => format!("`{wrong}` is not what was written: its blake3 differs"),
    })
}

/// Every file below the folder but the list itself, by its name with `/` in it.
fn entries(folder: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    let mut entries = BTreeMap::new();
    collect(folder, "", &mut entries)?;
    Ok(entries)
}

fn collect(folder: &Path, prefix: &str, entries: &mut BTreeMap<String, Entry>) -> Result<(), Error> {
    let failed = |cause| Error::new("read", folder, cause);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
        if path.is_dir() {
            collect(&path, &format!("{name}/"), entries)?;
        } else if name != MANIFEST {
            let bytes = entry.metadata().map_err(failed)?.len();
            entries.insert(name, Entry { bytes, blake3: hash_file(&path)?.to_string() });
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
        assert_eq!(verify_manifest(dir.path()), Ok(()));

        let verdict = |name: &str, content: Option<&[u8]>| {
            let old = fs::read(path(name)).ok();
            match content {
                Some(content) => fs::write(path(name), content).expect("written"),
                None => fs::remove_file(path(name)).expect("removed"),
            }
            let verdict = verify_manifest(dir.path()).expect_err("changed");
            match old {
                Some(old) => fs::write(path(name), old).expect("written"),
                None => fs::remove_file(path(name)).expect("removed"),
            }
            verdict
        };
        assert_eq!(verdict("adapter/a", Some(b"1234")), "`adapter/a` has 4 bytes, expected 5");
        assert_eq!(verdict("adapter/a", Some(b"12346")), "`adapter/a` is not what was written: its blake3 differs");
        assert_eq!(verdict("b", None), "`b` is missing");
        assert_eq!(verdict("c", Some(b"")), "`c` is not in its manifest.json");
        assert!(verdict(MANIFEST, Some(b"{")).starts_with("its manifest.json is not valid"));
        assert_eq!(verify_manifest(dir.path()), Ok(()));
    }
}
