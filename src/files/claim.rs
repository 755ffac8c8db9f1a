//! One process a folder: a file that its owner holds locked. The system gives the lock back when the process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::Error;

/// A folder that no other process claims while this value lives.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

/// Why a folder cannot be claimed.
#[derive(Debug)]
pub enum Refused {
    /// Another process has it.
    Held {
        /// The other process's number, where it says so.
        pid: Option<u32>,
    },
    /// The file cannot be made.
    File(Error),
}

impl Claim {
    /// The file in the folder.
    pub const FILE: &str = ".rankine-lock";

    /// Claims an existing folder. Where the file system knows no locks nothing is held.
    ///
    /// # Errors
    /// Another process has the folder, or it cannot be written.
    pub fn take(folder: &Path) -> Result<Self, Refused> {
        let path = folder.join(Self::FILE);
        loop {
            let mut file = open_locked(&path)?;
            // An owner that ends takes the file with it; what was locked may then be a file without a name.
            if is_at(&file, &path) {
                let pid = format!("{}\n", std::process::id());
                // A full disk must not keep anybody from going on: the number is for people only.
                let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open_locked(path: &Path) -> Result<File, Refused> {
    let failed = |cause| Refused::File(Error::new("claim", path, cause));
    // Not truncated: until it is ours it names its owner.
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            Err(Refused::Held { pid: owner.trim().parse().ok() })
        }
        Err(TryLockError::Error(cause)) if cause.kind() != std::io::ErrorKind::Unsupported => Err(failed(cause)),
        _ => Ok(file),
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |own: std::fs::Metadata, named: std::fs::Metadata| (own.dev(), own.ino()) == (named.dev(), named.ino());
    file.metadata().and_then(|own| Ok(same(own, path.metadata()?))).unwrap_or(false)
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let claim = Claim::take(dir.path()).expect("free");
        let refused = Claim::take(dir.path()).expect_err("held");
        assert!(matches!(refused, Refused::Held { pid: Some(pid) } if pid == std::process::id()), "{refused:?}");
        drop(claim);
        assert!(!dir.path().join(Claim::FILE).exists(), "an owner leaves nothing");
        std::fs::write(dir.path().join(Claim::FILE), "1\n").expect("written");
        Claim::take(dir.path()).expect("free, though a dead process left its file");
    }
}
