//! One process a folder. The system gives a lock back when the process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::FileError;

/// A process that was killed holds its locks until the system has taken its memory back.
const PATIENCE: Duration = Duration::from_secs(1);

/// A folder that no other process claims while this value lives.
#[derive(Debug)]
pub struct Claim {
    pid_file: PathBuf,
    _locked: File,
}

/// Why a folder cannot be claimed.
#[derive(Debug)]
pub enum Refused {
    /// Another process has it.
    Held {
        /// The other process's number, where it says so.
        pid: Option<u32>,
    },
    /// It cannot be opened.
    File(FileError),
}

impl Claim {
    /// The file in the folder that names its owner. Who removes it takes nothing from the owner.
    pub const PID_FILE: &str = ".rankine-lock";

    /// Whether a process has the folder, without taking it: `None` where nobody has, else its
    /// number where it says so.
    pub fn holder(folder: &Path) -> Option<Option<u32>> {
        let pid_file = folder.join(Self::PID_FILE);
        // Elsewhere opening it would make it.
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

    /// Claims an existing folder. Where the file system knows no locks nothing is held.
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
        // For people only: neither a full disk nor a folder that is only read keeps anybody from
        // going on.
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

/// Tries again for a while where another process has the lock.
fn try_for(patience: Duration, file: &File) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(20))
            }
            result => return result,
        }
    }
}

/// What is locked: the folder itself where it can be opened as a file.
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
                "held all \
            the same"
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
