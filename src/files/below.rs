//! The files in and below a folder.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::FileError;

/// Maximum number of files, more than any folder of data has.
const MOST_FILES: usize = 1_000_000;

/// Returns the files in and below a folder, sorted. Names that begin with a dot are skipped, as in
/// a shell. Linked folders are read too, but no folder twice. Links that lead nowhere are among the
/// files.
///
/// # Errors
/// A folder cannot be read, or there are more than a million files.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
    walk(folder, &mut files, &mut seen)?;
    files.sort();
    Ok(files)
}

fn walk(
    folder: &Path,
    files: &mut Vec<PathBuf>,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<(), FileError> {
    let failed = |cause| FileError::new("read", folder, cause);
    if !seen.insert(folder.canonicalize().map_err(failed)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files, seen)?;
        } else if path.is_file() || path.is_symlink() {
            files.push(path);
        }
        if files.len() > MOST_FILES {
            let cause = io::Error::other("it has more than a million files");
            return Err(FileError::new("list", folder, cause));
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_loop_of_links_ends_and_a_linked_folder_is_read_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name);
        for folder in ["data/deep", "data/.hidden", "elsewhere"] {
            std::fs::create_dir_all(at(folder)).expect("made");
        }
        for file in [
            "data/b",
            "data/deep/a",
            "data/.hidden/x",
            "data/.y",
            "elsewhere/c",
        ] {
            std::fs::write(at(file), b"").expect("written");
        }
        for (to, link) in [
            (".", "data/self"),
            ("../..", "data/deep/up"),
            ("../elsewhere", "data/other"),
            ("../elsewhere", "data/same"),
            ("gone", "data/nowhere"),
        ] {
            symlink(to, at(link)).expect("linked");
        }
        let found = files_below(&at("data")).expect("read");
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        for name in ["a", "b", "c", "nowhere"] {
            assert_eq!(
                names.iter().filter(|found| **found == name).count(),
                1,
                "{name}"
            );
        }
        assert_eq!(names.len(), 4);
        assert!(files_below(&at("nothing")).is_err());
    }
}
