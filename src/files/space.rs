//! Check for free disk space before a large write.

use std::path::Path;

use super::FileError;

/// Checks that the disk of a folder has room for this many bytes.
///
/// # Errors
/// There is too little room; the message has both numbers. No error if the system does not report
/// it.
#[cfg(unix)]
pub fn check_space(folder: &Path, needed_bytes: u64) -> Result<(), FileError> {
    let Ok(disk) = nix::sys::statvfs::statvfs(folder) else {
        return Ok(());
    };
    // The types differ from system to system.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    let free_bytes = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    let numbers = format!("{needed_bytes} bytes are needed, the disk has {free_bytes} free");
    Err(FileError::new(
        "write in",
        folder,
        std::io::Error::new(std::io::ErrorKind::StorageFull, numbers),
    ))
}

/// Checks nothing, because this system does not report free space.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn check_space(_folder: &Path, _needed_bytes: u64) -> Result<(), FileError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_disk_has_room_for_everything() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        check_space(dir.path(), 1).expect("one byte");
        if cfg!(unix) {
            let error = check_space(dir.path(), u64::MAX)
                .expect_err("no disk is so large")
                .to_string();
            assert!(
                error.contains(&format!("{} bytes are needed, the disk has ", u64::MAX)),
                "{error}"
            );
        }
    }
}
