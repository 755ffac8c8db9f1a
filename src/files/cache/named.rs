//! A file that is written without a name and gets its name when it is complete. If the writer dies,
//! nothing is left of it.

use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;

use crate::files::{FileError, NewFile, temporary_in};

/// Writes a file piece by piece without a name, and gives it the name `path` at the end. Only this
/// user can read it.
///
/// # Errors
/// The file could not be written, or `fill` failed; nothing is left then.
pub fn write_private<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |cause| FileError::new("write", path, cause);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut written = tempfile::tempfile_in(folder).map_err(failed)?;
    let mut new = NewFile::over(written.try_clone().map_err(failed)?, path);
    fill(&mut new)?;
    new.finish()?;
    Ok(give_name(&mut written, path).map_err(failed)?)
}

/// Gives an unnamed file of the same disk the name `path`, replacing an existing file in one step.
/// Only this user can read it. If the system cannot name such a file, it is copied.
///
/// # Errors
/// The disk is full or fails.
pub fn give_name(file: &mut File, path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // An unnamed file has the permissions that the umask leaves.
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    if linked(file, folder, path).is_ok() {
        return Ok(());
    }
    file.rewind()?;
    let mut copy = temporary_in(folder)?;
    io::copy(file, copy.as_file_mut())?;
    copy.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(target_os = "linux")]
fn linked(file: &File, folder: &Path, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use nix::fcntl::{AT_FDCWD, AtFlags};

    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |aside: &Path| {
        Ok(nix::unistd::linkat(
            AT_FDCWD,
            open.as_str(),
            AT_FDCWD,
            aside,
            AtFlags::AT_SYMLINK_FOLLOW,
        )?)
    };
    // A link cannot replace a file, but a rename can.
    let aside = tempfile::Builder::new()
        .prefix(".rankine-tmp-")
        .make_in(folder, link)?;
    aside.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(not(target_os = "linux"))]
fn linked(_file: &File, _folder: &Path, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_nameless_file_gets_its_name_whole_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.tokens");
        for content in [&b"first"[..], b"second"] {
            let mut file = tempfile::tempfile_in(dir.path()).expect("a nameless file");
            file.write_all(content).expect("written");
            assert_eq!(
                std::fs::read_dir(dir.path()).expect("listed").count(),
                usize::from(path.exists()),
                "it has no name yet"
            );
            give_name(&mut file, &path).expect("named");
            assert_eq!(std::fs::read(&path).expect("read"), content);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(
                path.metadata().expect("there").permissions().mode() & 0o777,
                0o600
            );
        }
    }
}
