//! Locks that give a folder to one process. The system releases a lock when the process ends, even
//! after a crash.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::FileError;

/// Wait for a lock. A killed process holds its locks until the system has taken its memory back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Claim on a folder: no other process can claim it while this value lives.
#[derive(Debug)]
pub struct Claim {
    pid_file: PathBuf,
    _locked: File,
}

/// Reason why a folder cannot be claimed.
#[derive(Debug)]
pub enum Refused {
    /// Another process has the folder.
    Held {
        /// Id of the other process, if known.
        pid: Option<u32>,
    },
    /// The folder cannot be opened.
    File(FileError),
}

impl Claim {
    /// File in the folder that names the owner. Removing it does not release the claim.
    pub const PID_FILE: &str = ".rankine-lock";

    /// Returns who has claimed the folder, without claiming it: `None` if nobody has, otherwise the
    /// process id if it is known.
    pub fn holder(folder: &Path) -> Option<Option<u32>> {
        let pid_file = folder.join(Self::PID_FILE);
        // On other systems, opening the folder would create the file.
        let locked = if pid_file.exists() || cfg!(unix) {
            open(folder, &pid_file).ok()?
        } else {
            return None;
        };
        let pid = || {
            std::fs::read_to_string(&pid_file)
                .ok()
                .and_then(|owner| owner.trim().parse().ok())
        };
        matches!(locked.try_lock(), Err(TryLockError::WouldBlock)).then(pid)
    }

    /// Claims an existing folder. On file systems without locks, nothing is held.
    ///
    /// # Errors
    /// Another process has the folder, or it cannot be opened.
    pub fn take(folder: &Path) -> Result<Self, Refused> {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let pid_file = folder.join(Self::PID_FILE);
        let failed = |cause| Refused::File(FileError::new("claim", &folder, cause));
        let locked = open(&folder, &pid_file).map_err(failed)?;
        match try_for(PATIENCE, &locked) {
            Err(TryLockError::WouldBlock) => {
                let pid = std::fs::read_to_string(&pid_file)
                    .ok()
                    .and_then(|owner| owner.trim().parse().ok());
                return Err(Refused::Held { pid });
            }
            Err(TryLockError::Error(cause)) if cause.kind() != std::io::ErrorKind::Unsupported => {
                return Err(failed(cause));
            }
            _ => {}
        }
        // The file is only informative, so a full disk or a read-only folder is no reason to stop.
        let _ = std::fs::write(&pid_file, format!("{}\n", std::process::id()));
        Ok(Self {
            pid_file,
            _locked: locked,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

/// Tries to lock the file, and retries for a while if another process has the lock.
fn try_for(patience: Duration, file: &File) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Opens the file to lock: the folder itself if it can be opened as a file.
fn open(folder: &Path, pid_file: &Path) -> std::io::Result<File> {
    if cfg!(unix) {
        File::open(folder)
    } else {
        OpenOptions::new().create(true).append(true).open(pid_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let claim = Claim::take(dir.path()).expect("free");
        let refused = Claim::take(dir.path()).expect_err("held");
        assert_eq!(Claim::holder(dir.path()), Some(Some(std::process::id())));
        assert!(
            matches!(refused, Refused::Held { pid: Some(pid) } if pid == std::process::id()),
            "{refused:?}"
        );
        if cfg!(unix) {
            std::fs::remove_file(dir.path().join(Claim::PID_FILE)).expect("removed by hand");
            assert!(
                matches!(Claim::take(dir.path()), Err(Refused::Held { pid: None })),
                "held all the same"
            );
        }
        drop(claim);
        assert_eq!(Claim::holder(dir.path()), None);
        std::fs::write(dir.path().join(Claim::PID_FILE), "1\n").expect("written");
        drop(Claim::take(dir.path()).expect("free, though a dead process left its file"));
        assert!(
            !dir.path().join(Claim::PID_FILE).exists(),
            "an owner leaves nothing"
        );
    }
}
