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
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder)
}

/// Fills a folder under a temporary name and renames it to `path`; an older folder there is replaced.
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
    if path.exists() {
        let old = tempfile::Builder::new().prefix(".old-").tempdir_in(above).map_err(failed)?;
        fs::rename(path, old.path().join("folder")).map_err(failed)?;
    }
    fs::rename(new.keep(), path).map_err(failed)?;
    Ok(sync_folder(above)?)
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
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "no temporary folder is left");
    }
}
