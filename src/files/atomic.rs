//! Atomic writes: a temporary sibling, fsync, rename, fsync of the folder. A reader never sees half
//! a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

use super::{FileError, NewFile, disk};

/// How temporary names begin. Under these names nothing is ever read.
const TEMPORARY: [&str; 2] = [".rankine-tmp-", ".rankine-old-"];

/// Writes a file so that it is either the old one or the whole new one. Missing folders above it
/// are made.
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

/// Writes files by their paths below a folder, each as [`write_atomic`] does.
///
/// # Errors
/// One of them cannot be written.
pub fn write_all(folder: &Path, files: &[(PathBuf, Vec<u8>)]) -> Result<(), FileError> {
    files
        .iter()
        .try_for_each(|(path, content)| write_atomic(&folder.join(path), content))
}

/// Fills a file piece by piece so that it is whole or absent. Missing folders above it are made.
///
/// # Errors
/// It could not be written or renamed, or `fill` failed; `path` is then as it was.
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

/// Gives a finished file, written under another name of the same disk, its own: whole and on the
/// disk, or not at all.
///
/// # Errors
/// The disk is full, or fails.
pub fn settle(file: &File, written: &Path, path: &Path) -> Result<(), FileError> {
    let failed = |cause| FileError::new("write", path, cause);
    disk::sync(file, written).map_err(failed)?;
    disk::rename(written, path).map_err(failed)?;
    sync_folder(parent(path))
}

/// Makes `path` a link to `target`, which is seen from the folder of `path`; what had the name is
/// replaced in one step. Where there are no links it becomes a copy.
///
/// # Errors
/// It cannot be made.
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

/// A temporary file with the rights of any other file of this user: less what the umask takes.
fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY[0]);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Fills a folder under a temporary name and renames it to `path`; an older folder there is
/// exchanged for it in one step where the system can (Linux), else moved aside first.
///
/// # Errors
/// A file could not be written or the folder not renamed; `path` is then as it was. Or the folder
/// above could not be synced.
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

/// Moves a whole folder to another name on the same disk, where nothing is.
///
/// # Errors
/// It cannot be renamed, or the folder above not be synced.
pub fn move_folder(from: &Path, to: &Path) -> Result<(), FileError> {
    sync_folder(from)?;
    disk::rename(from, to).map_err(|cause| FileError::new("write", to, cause))?;
    sync_folder(parent(to))
}

/// Makes a folder and what is missing above it, each on the disk before anything is written into
/// it.
///
/// # Errors
/// One cannot be made.
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

/// Removes what writers of these folders left when their processes died, if it is older than `age`:
/// a living writer would lose its work.
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

/// A file under a temporary name in a folder, for who writes it piece by piece.
///
/// # Errors
/// The folder cannot be written.
pub fn temporary_in(folder: &Path) -> std::io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(TEMPORARY[0])
        .tempfile_in(folder)
}

/// A folder under a temporary name in a folder, which goes with its handle.
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
/// It cannot be removed.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    disk::remove_folder(path).map_err(|cause| FileError::new("remove", path, cause))
}

/// Moves the old folder aside and the new one to its name; puts the old one back if that fails.
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
            "the new folder is whole and \
        alone"
        );
        let new = tempfile::tempdir_in(dir.path()).expect("a temporary folder");
        fs::write(new.path().join("a"), b"old").expect("written");
        replace(new, &path).expect("replaced");
        assert_eq!(fs::read(path.join("a")).expect("still there"), b"old");
        assert_eq!(
            fs::read_dir(dir.path()).expect("listed").count(),
            1,
            "no temporary folder is \
        left"
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
        let error = disk::trial::with(full, || write_atomic(&path, b"12345")).expect_err(
            "a full \
        disk",
        );
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
