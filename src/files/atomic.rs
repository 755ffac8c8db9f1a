//! Atomic writes: a temporary sibling, fsync, rename, fsync of the folder. A reader never sees half a file.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::Error;

/// Writes a file so that it is either the old one or the whole new one. Missing folders above it are made.
///
/// # Errors
/// Any of the steps failed; the old file is then untouched and no temporary file is left.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), Error> {
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(|cause| Error::new("create", folder, cause))?;
    let failed = |cause| Error::new("write", path, cause);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tmp-");
    // As any other file of this user: less what the umask takes.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder)
}

/// Fills a folder under a temporary name and renames it to `path`; an older folder there is exchanged for it in one step where the
/// system can (Linux), else moved aside first.
///
/// # Errors
/// A file could not be written or the folder not renamed; `path` is then as it was.
pub fn write_folder_atomic<E: From<Error>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let above = parent(path);
    fs::create_dir_all(above).map_err(|cause| Error::new("create", above, cause))?;
    let failed = |cause| Error::new("write", path, cause);
    let new = tempfile::Builder::new().prefix(".tmp-").tempdir_in(above).map_err(failed)?;
    fill(new.path())?;
    sync_folder(new.path())?;
    if !path.exists() {
        fs::rename(new.keep(), path).map_err(failed)?;
    } else if exchange(new.path(), path).is_err() {
        replace(new, path).map_err(failed)?;
    }
    Ok(sync_folder(above)?)
}

/// Two folders swap their names.
#[cfg(target_os = "linux")]
fn exchange(left: &Path, right: &Path) -> std::io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    Ok(renameat2(AT_FDCWD, left, AT_FDCWD, right, RenameFlags::RENAME_EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_left: &Path, _right: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Moves the old folder aside and the new one to its name; puts the old one back if that fails.
fn replace(new: tempfile::TempDir, path: &Path) -> std::io::Result<()> {
    let old = tempfile::Builder::new().prefix(".old-").tempdir_in(parent(path))?;
    let aside = old.path().join("folder");
    fs::rename(path, &aside)?;
    fs::rename(new.path(), path).or_else(|cause| fs::rename(&aside, path).and(Err(cause)))?;
    let _ = new.keep();
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(|cause| Error::new("sync", folder, cause))?;
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
        write_folder_atomic::<Error>(&path, |new| write_atomic(&new.join("a"), b"old")).expect("first write");
        let failed = write_folder_atomic::<Error>(&path, |new| {
            write_atomic(&new.join("a"), b"new")?;
            Err(Error::new("write", new, std::io::Error::other("full")))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(path.join("a")).expect("still there"), b"old");
        write_folder_atomic::<Error>(&path, |new| write_atomic(&new.join("b"), b"new")).expect("replaced");
        assert!(!path.join("a").exists() && path.join("b").exists(), "the new folder is whole and alone");
        let new = tempfile::tempdir_in(dir.path()).expect("a temporary folder");
        fs::write(new.path().join("a"), b"old").expect("written");
        replace(new, &path).expect("replaced");
        assert_eq!(fs::read(path.join("a")).expect("still there"), b"old");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "no temporary folder is left");
    }
}
