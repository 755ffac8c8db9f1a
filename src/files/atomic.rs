//! Atomic writes: a temporary sibling, fsync, rename, fsync of the folder. A reader never sees a
//! partly written file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

use super::{FileError, NewFile, disk};

/// Prefixes of temporary names. Nothing is ever read under such a name.
const TEMPORARY: [&str; 2] = [".rankine-tmp-", ".rankine-old-"];

/// Writes a file atomically: a reader sees the old file or the whole new one. Creates missing
/// parent folders.
///
/// # Errors
/// Any of the steps failed; the old file is then untouched and no temporary file is left.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = parent(path);
    create_folder(folder)?;
    let failed = |cause| FileError::writing(path, content.len() as u64, cause);
    let mut file = temporary(folder).map_err(failed)?;
    disk::write(file.as_file_mut(), path, content).map_err(failed)?;
    disk::sync(file.as_file(), path).map_err(failed)?;
    disk::persist(file, path).map_err(failed)?;
    sync_folder(folder)
}

/// Writes files at their paths below a folder, each as [`write_atomic`] does.
///
/// # Errors
/// One of them cannot be written.
pub fn write_all(folder: &Path, files: &[(PathBuf, Vec<u8>)]) -> Result<(), FileError> {
    files
        .iter()
        .try_for_each(|(path, content)| write_atomic(&folder.join(path), content))
}

/// Writes a file piece by piece, atomically. Creates missing parent folders.
///
/// # Errors
/// The file could not be written or renamed, or `fill` failed; `path` is then unchanged.
pub fn write_pieces_atomic<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<(), E>,
) -> Result<(), E> {
    let folder = parent(path);
    create_folder(folder)?;
    let failed = |cause| FileError::new("write", path, cause);
    let temporary = temporary(folder).map_err(failed)?;
    let mut new = NewFile::over(temporary.as_file().try_clone().map_err(failed)?, path);
    fill(&mut new)?;
    new.finish()?;
    disk::persist(temporary, path).map_err(failed)?;
    Ok(sync_folder(folder)?)
}

/// Renames a finished temporary file to `path` on the same disk, after syncing it.
///
/// # Errors
/// The disk is full, or fails.
pub fn settle(file: &File, written: &Path, path: &Path) -> Result<(), FileError> {
    let failed = |cause| FileError::new("write", path, cause);
    disk::sync(file, written).map_err(failed)?;
    disk::rename(written, path).map_err(failed)?;
    sync_folder(parent(path))
}

/// Makes `path` a symbolic link to `target`, a path relative to the folder of `path`. An existing
/// file is replaced in one step. Systems without links get a copy.
///
/// # Errors
/// The link cannot be created.
pub fn link_atomic(target: &Path, path: &Path) -> Result<(), FileError> {
    let folder = parent(path);
    let failed = |cause| FileError::new("link", path, cause);
    let aside = tempfile::Builder::new()
        .prefix(TEMPORARY[0])
        .tempdir_in(folder)
        .map_err(failed)?;
    let link = aside.path().join("link");
    #[cfg(unix)]
    std::os::unix::fs::symlink(target, &link).map_err(failed)?;
    #[cfg(not(unix))]
    fs::copy(folder.join(target), &link).map_err(failed)?;
    disk::rename(&link, path).map_err(failed)?;
    sync_folder(folder)
}

/// Creates a temporary file with the usual permissions of this user, which the umask limits.
fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY[0]);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Fills a folder under a temporary name and renames it to `path`. An older folder is exchanged in
/// one step where the system can do this (Linux); otherwise it is moved aside first.
///
/// # Errors
/// A file could not be written or the folder could not be renamed; `path` is then unchanged. Or the
/// parent folder could not be synced.
pub fn write_folder_atomic<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let above = parent(path);
    create_folder(above)?;
    let failed = |cause| FileError::new("write", path, cause);
    let new = tempfile::Builder::new()
        .prefix(TEMPORARY[0])
        .tempdir_in(above)
        .map_err(failed)?;
    fill(new.path())?;
    sync_folder(new.path())?;
    if !path.exists() {
        disk::rename(new.path(), path).map_err(failed)?;
        let _ = new.keep();
    } else if disk::exchange(new.path(), path).is_err() {
        replace(new, path).map_err(failed)?;
    }
    Ok(sync_folder(above)?)
}

/// Moves a whole folder to an unused name on the same disk.
///
/// # Errors
/// The folder cannot be renamed, or the parent folder cannot be synced.
pub fn move_folder(from: &Path, to: &Path) -> Result<(), FileError> {
    sync_folder(from)?;
    disk::rename(from, to).map_err(|cause| FileError::new("write", to, cause))?;
    sync_folder(parent(to))
}

/// Creates a folder and its missing parents, and syncs each to the disk.
///
/// # Errors
/// A folder cannot be created.
pub fn create_folder(folder: &Path) -> Result<(), FileError> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    fs::create_dir_all(folder).map_err(|cause| FileError::new("create", folder, cause))?;
    missing
        .into_iter()
        .try_for_each(|made| sync_folder(parent(made)))
}

/// Removes temporary files that dead processes left in these folders, if they are older than `age`.
/// Younger ones may belong to a live process.
///
/// # Errors
/// A leftover cannot be removed.
pub fn remove_leftovers(folders: &[&Path], age: Duration) -> Result<(), FileError> {
    let is_leftover = |name: &str| TEMPORARY.iter().any(|prefix| name.starts_with(prefix));
    for entry in folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
    {
        if entry.file_name().to_str().is_some_and(is_leftover) && is_older(&entry, age) {
            let path = entry.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|cause| FileError::new("remove", &path, cause))?;
        }
    }
    Ok(())
}

fn is_older(entry: &fs::DirEntry, age: Duration) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    age.is_zero()
        || modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age))
}

/// Creates a temporary file in a folder, for a caller that writes it piece by piece.
///
/// # Errors
/// The folder cannot be written.
pub fn temporary_in(folder: &Path) -> std::io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(TEMPORARY[0])
        .tempfile_in(folder)
}

/// Creates a temporary folder in a folder. It is removed when its handle is dropped.
///
/// # Errors
/// The folder cannot be written.
pub fn temporary_folder_in(folder: &Path) -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(TEMPORARY[0])
        .tempdir_in(folder)
}

/// Removes a folder and everything in it.
///
/// # Errors
/// The folder cannot be removed.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    disk::remove_folder(path).map_err(|cause| FileError::new("remove", path, cause))
}

/// Moves the old folder aside and the new one to its name. Restores the old one if that fails.
fn replace(new: tempfile::TempDir, path: &Path) -> std::io::Result<()> {
    let old = tempfile::Builder::new()
        .prefix(TEMPORARY[1])
        .tempdir_in(parent(path))?;
    let aside = old.path().join("folder");
    disk::rename(path, &aside)?;
    disk::rename(new.path(), path).or_else(|cause| fs::rename(&aside, path).and(Err(cause)))?;
    let _ = new.keep();
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn sync_folder(folder: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        File::open(folder)
            .and_then(|file| disk::sync(&file, folder))
            .map_err(|cause| FileError::new("sync", folder, cause))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fill_leaves_the_old_folder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("adapter");
        write_folder_atomic::<FileError>(&path, |new| write_atomic(&new.join("a"), b"old"))
            .expect("first write");
        let failed = write_folder_atomic::<FileError>(&path, |new| {
            write_atomic(&new.join("a"), b"new")?;
            Err(FileError::new("write", new, std::io::Error::other("full")))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(path.join("a")).expect("still there"), b"old");
        write_folder_atomic::<FileError>(&path, |new| write_atomic(&new.join("b"), b"new"))
            .expect("replaced");
        assert!(
            !path.join("a").exists() && path.join("b").exists(),
            "the new folder is whole and alone"
        );
        let new = tempfile::tempdir_in(dir.path()).expect("a temporary folder");
        fs::write(new.path().join("a"), b"old").expect("written");
        replace(new, &path).expect("replaced");
        assert_eq!(fs::read(path.join("a")).expect("still there"), b"old");
        assert_eq!(
            fs::read_dir(dir.path()).expect("listed").count(),
            1,
            "no temporary folder is left"
        );
    }

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for name in [".rankine-tmp-x", ".rankine-old-y", ".tmp-z", ".hidden"] {
            fs::write(dir.path().join(name), b"").expect("written");
            fs::create_dir_all(dir.path().join(format!("{name}-folder/inner"))).expect("made");
        }
        let folders = [dir.path(), &dir.path().join("missing")];
        remove_leftovers(&folders, Duration::from_mins(1)).expect("none is so old");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 8);
        remove_leftovers(&folders, Duration::ZERO).expect("removed");
        let left = fs::read_dir(dir.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(
            left,
            [".hidden", ".hidden-folder", ".tmp-z", ".tmp-z-folder"]
        );
    }

    #[test]
    fn a_full_disk_says_what_was_needed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a");
        let full = |operation, _: &Path| match operation {
            disk::Operation::Sync => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        };
        let error =
            disk::trial::with(full, || write_atomic(&path, b"12345")).expect_err("a full disk");
        assert!(
            error.to_string().ends_with("; 5 bytes are needed"),
            "{error}"
        );
        assert_eq!(
            fs::read_dir(dir.path()).expect("listed").count(),
            0,
            "nothing is left"
        );
    }
}
