//! Operations that change the disk. At each of them, a test can inspect what a dead process would
//! leave, or make the disk fail.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// An operation on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Write of a file's content, or of its first half.
    Write,
    /// Sync of a file or folder to the disk.
    Sync,
    /// Rename of a file or folder to its final name.
    Rename,
    /// Removal of a folder.
    Remove,
}

pub(super) fn write(file: &mut File, path: &Path, content: &[u8]) -> io::Result<()> {
    reach(Operation::Write, path)?;
    let (first, second) = if cfg!(test) {
        content.split_at(content.len() / 2)
    } else {
        (content, &[][..])
    };
    file.write_all(first)?;
    reach(Operation::Write, path)?;
    file.write_all(second)
}

pub(super) fn sync(file: &File, path: &Path) -> io::Result<()> {
    reach(Operation::Sync, path)?;
    file.sync_all()
}

pub(super) fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    reach(Operation::Rename, path)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    reach(Operation::Rename, to)?;
    fs::rename(from, to)
}

pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    reach(Operation::Remove, path)?;
    fs::remove_dir_all(path)
}

/// Exchanges the names of two folders.
#[cfg(target_os = "linux")]
pub(super) fn exchange(left: &Path, right: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    reach(Operation::Rename, right)?;
    Ok(renameat2(
        AT_FDCWD,
        left,
        AT_FDCWD,
        right,
        RenameFlags::RENAME_EXCHANGE,
    )?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn exchange(_left: &Path, _right: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps, reason = "in tests a disk can fail here")]
fn reach(_operation: Operation, _path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use trial::reach;

/// Hook that a test runs at every operation of its own thread.
#[cfg(test)]
pub(crate) mod trial {
    use std::cell::RefCell;

    use super::{Operation, Path, io};

    type Hook = Box<dyn FnMut(Operation, &Path) -> io::Result<()>>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Runs `work` and calls `hook` before every operation. An error of the hook counts as an error
    /// of the disk.
    pub(crate) fn with<T>(
        hook: impl FnMut(Operation, &Path) -> io::Result<()> + 'static,
        work: impl FnOnce() -> T,
    ) -> T {
        HOOK.set(Some(Box::new(hook)));
        let done = work();
        HOOK.set(None);
        done
    }

    pub(super) fn reach(operation: Operation, path: &Path) -> io::Result<()> {
        let hook = HOOK.take();
        let Some(mut hook) = hook else { return Ok(()) };
        let result = hook(operation, path);
        HOOK.set(Some(hook));
        result
    }
}
