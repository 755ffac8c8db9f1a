//! File access: atomic writes, folders with manifests, content hashes, claims, memory maps and the
//! containers of weights.

mod atomic;
mod below;
mod cache;
mod claim;
pub(crate) mod disk;
pub mod float;
pub mod gguf;
mod guard;
mod hash;
pub mod license;
mod limited;
mod manifest;
mod mmap;
mod not_folder;
mod piecewise;
pub mod safetensors;
mod size;
mod space;

pub use atomic::{
    create_folder, link_atomic, move_folder, remove_folder, remove_leftovers, settle,
    temporary_folder_in, temporary_in, write_all, write_atomic, write_folder_atomic,
    write_pieces_atomic,
};
pub use below::files_below;
pub use cache::{
    CacheEntry, EntryKind, LIMIT, Lease, RowCache, STAMP_BYTES, Stamp, Taken, cache_folder,
    cache_limit, entries, entry_count, give_name, hold, home_folder, leftovers, mark_used,
    private_cache_folder, remove, remove_outdated, trim, write_private,
};
pub use claim::{Claim, Refused};
pub use float::Float;
pub use guard::{guarded, panic_words};
pub use hash::{Hash, hash_bytes, hash_file, hash_file_in_parallel, update_in_parallel};
pub use limited::{JSON_BYTES, is_there, listed, open_file, read_text_up_to, read_up_to};
pub use manifest::{Unproven, mirror, unproven, verify_manifest, write_manifest};
pub use mmap::{Map, map, map_file};
pub use not_folder::NotFolder;
pub use piecewise::{NewFile, OldFile, copy};
pub use size::parse_bytes;
pub use space::check_space;

use std::path::{Path, PathBuf};

use crate::fault::{Exit, Explain};

/// Failure to read or write a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{path}`: {cause}")]
pub struct FileError {
    /// What was attempted: `read`, `write`, ...
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// Error of the system.
    #[source]
    pub cause: std::io::Error,
}

impl FileError {
    /// Makes an error of doing `action` on `path`.
    pub fn new(action: &'static str, path: &Path, cause: std::io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            cause,
        }
    }

    /// Makes an error of writing this many bytes to `path`. If the disk is full, the message names
    /// the size.
    pub fn writing(path: &Path, bytes: u64, cause: std::io::Error) -> Self {
        let cause = match cause.kind() {
            std::io::ErrorKind::StorageFull => {
                std::io::Error::new(cause.kind(), format!("{cause}; {bytes} bytes are needed"))
            }
            _ => cause,
        };
        Self::new("write", path, cause)
    }
}

impl Explain for FileError {
    fn exit(&self) -> Exit {
        Exit::Io
    }

    fn hint(&self) -> Option<String> {
        match self.cause.kind() {
            std::io::ErrorKind::StorageFull => Some("free some space on that disk".into()),
            std::io::ErrorKind::PermissionDenied => {
                Some("give this user the right to that path, or choose another".into())
            }
            std::io::ErrorKind::NotFound if self.path.is_symlink() => Some(
                "restore the file that the link leads to, or remove the link; `rankine pull ID` \
                completes a model of the Hub's cache"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Returns the files of a folder, sorted by name.
///
/// # Errors
/// The folder cannot be read.
pub fn files_in(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |cause| FileError::new("read", folder, cause);
    let entries = std::fs::read_dir(folder)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    Ok(paths)
}

/// Reads a whole text file.
///
/// # Errors
/// The file cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|cause| FileError::new("read", path, cause))
}
