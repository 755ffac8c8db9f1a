//! Leases: which entries of a folder are in use by live processes.
//!
//! Each process has one locked file in the folder that lists its entries. The system releases the
//! lock when the process ends, even after a crash. A lock on every entry would need one open file
//! each, and a data set may have a thousand.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Prefix of the names of lease files.
const PREFIX: &str = ".in-use-";
/// Age after which a lease counts as dead on file systems without locks.
const SILENCE: Duration = Duration::from_hours(24);

/// Leases of this process.
static LEASES: Mutex<Vec<Weak<Lease>>> = Mutex::new(Vec::new());

/// Keeps entries that this process uses from being removed.
#[derive(Debug)]
pub struct Lease {
    folder: PathBuf,
    path: PathBuf,
    file: Mutex<File>,
}

/// Records that this process uses the entry `name` of a folder, before the entry is opened. `None`
/// if the folder cannot be written; no process can then remove anything from it either.
pub fn hold(folder: &Path, name: &str) -> Option<Arc<Lease>> {
    let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
    leases.retain(|lease| lease.strong_count() > 0);
    let found = leases
        .iter()
        .filter_map(Weak::upgrade)
        .find(|lease| lease.folder == folder);
    let lease = if let Some(lease) = found {
        lease
    } else {
        let lease = Arc::new(Lease::new(folder)?);
        leases.push(Arc::downgrade(&lease));
        lease
    };
    lease.say(name)?;
    Some(lease)
}

impl Lease {
    fn new(folder: &Path) -> Option<Self> {
        let file = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempfile_in(folder)
            .ok()?;
        let (file, path) = file.keep().ok()?;
        // Without locks, the date of the file counts.
        let _ = file.try_lock();
        let lease = Self {
            folder: folder.to_owned(),
            path,
            file: Mutex::new(file),
        };
        lease.say(&std::process::id().to_string())?;
        Some(lease)
    }

    fn say(&self, line: &str) -> Option<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(format!("{line}\n").as_bytes()).ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Returns the entries of a folder that live processes use, each with one process id. Removes
/// leases of dead processes.
pub(super) fn used(folder: &Path) -> BTreeMap<String, u32> {
    let mut used = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX))
        {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let is_silent = || {
            let modified = file.metadata().and_then(|metadata| metadata.modified());
            modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > SILENCE))
        };
        let is_dead = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(_)) => is_silent(),
        };
        if is_dead {
            let _ = std::fs::remove_file(&path);
            continue;
        }
        let said = std::fs::read_to_string(&path).unwrap_or_default();
        let mut lines = said.lines();
        let process = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
        used.extend(lines.map(|name| (name.to_owned(), process)));
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_use_while_their_lease_lives() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = hold(dir.path(), "a").expect("held");
        let second = hold(dir.path(), "b").expect("held");
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("listed").count(),
            1,
            "one file a process"
        );
        let expected = [
            ("a".to_owned(), std::process::id()),
            ("b".to_owned(), std::process::id()),
        ];
        assert_eq!(used(dir.path()), BTreeMap::from(expected));
        drop(first);
        assert_eq!(used(dir.path()).len(), 2, "its other entry is in use");
        drop(second);
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("listed").count(),
            0,
            "it leaves nothing"
        );
        std::fs::write(dir.path().join(".in-use-x"), "1\na\n").expect("written");
        assert!(used(dir.path()).is_empty(), "a dead process uses nothing");
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("listed").count(),
            0,
            "and its file is removed"
        );
    }
}
