//! The user's cache folder, which all runs share, and the place where tokenized rows are kept.
//!
//! The cache folder has one subfolder for each kind of content: `rows` for what is made from data
//! files, `proofs` and `kernels` for the rest. Only `rows` holds anything from the data: see
//! `docs/privacy.md`.

mod entry;
mod lease;
mod named;

use std::path::{Path, PathBuf};

pub use entry::{
    CacheEntry, EntryKind, STAMP_BYTES, Stamp, Taken, entries, entry_count, leftovers, mark_used,
    remove, remove_outdated, trim,
};
pub use lease::{Lease, hold};
pub use named::{give_name, write_private};

use super::{FileError, parse_bytes};

/// Subfolder of the cache for what is made from data files.
const ROWS: &str = "rows";
/// Default size limit of the cache, bytes.
const LIMIT_BYTES: u64 = 20_000_000_000;
/// Environment variable with the size limit of the cache.
pub const LIMIT: &str = "RANKINE_CACHE_LIMIT";

/// Returns the folder of token caches, proofs and compiled kernels: `RANKINE_CACHE`, or the user's
/// cache folder.
pub fn cache_folder() -> PathBuf {
    of_variable("RANKINE_CACHE").unwrap_or_else(default_folder)
}

fn of_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Returns the user's home folder: `HOME`, or the one that the system has for the user.
pub fn home_folder() -> Option<PathBuf> {
    of_variable("HOME")
        .or_else(std::env::home_dir)
        .filter(|home| !home.as_os_str().is_empty())
}

fn default_folder() -> PathBuf {
    let user = of_variable("XDG_CACHE_HOME").or_else(|| of_variable("LOCALAPPDATA"));
    let user = user.or_else(|| home_folder().map(|home| home.join(".cache")));
    user.unwrap_or_else(std::env::temp_dir).join("rankine")
}

/// Returns the size limit of the user's cache in bytes: `RANKINE_CACHE_LIMIT`, or 20 GB.
///
/// # Errors
/// The variable does not hold a size; the error is its value.
pub fn cache_limit() -> Result<u64, String> {
    let Some(said) = std::env::var_os(LIMIT).filter(|value| !value.is_empty()) else {
        return Ok(LIMIT_BYTES);
    };
    let said = said.to_string_lossy().into_owned();
    parse_bytes(said.trim()).ok_or(said)
}

/// Place where tokenized or converted rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowCache {
    /// In the cache that all runs share, at this folder.
    Shared(PathBuf),
    /// In the folder of one run.
    OfRun(PathBuf),
    /// In unnamed files, on the disk of the first of these folders that allows them. The system
    /// frees them when the process ends, even after a crash.
    Nameless(Vec<PathBuf>),
}

impl From<&PathBuf> for RowCache {
    fn from(folder: &PathBuf) -> Self {
        Self::Shared(folder.clone())
    }
}

impl RowCache {
    /// Returns the folder of the entries; `None` if the entries have no names.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Shared(folder) => Some(folder.join(ROWS)),
            Self::OfRun(folder) => Some(folder.clone()),
            Self::Nameless(_) => None,
        }
    }

    /// Returns the folders in which an entry can be written, the best one first. Creates a missing
    /// folder of entries for this user alone.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn prepare(&self) -> Result<Vec<PathBuf>, FileError> {
        match self {
            Self::Nameless(folders) => Ok(folders.clone()),
            Self::Shared(root) => {
                private_cache_folder(root)?;
                let rows = root.join(ROWS);
                private_folder(&rows, true)?;
                Ok(vec![rows])
            }
            Self::OfRun(folder) => {
                private_folder(folder, true)?;
                Ok(vec![folder.clone()])
            }
        }
    }
}

/// Creates a cache folder for this user alone. An existing folder that the user named keeps its
/// permissions, because it may have other uses.
///
/// # Errors
/// The folder cannot be created.
pub fn private_cache_folder(root: &Path) -> Result<(), FileError> {
    private_folder(
        root,
        root == default_folder() && of_variable("RANKINE_CACHE").is_none(),
    )
}

/// Creates a folder that only this user can enter. With `tightens`, an existing folder loses the
/// permissions of other users.
fn private_folder(folder: &Path, tightens: bool) -> Result<(), FileError> {
    if !folder.is_dir() {
        let failed = |cause| FileError::new("create", folder, cause);
        std::fs::create_dir_all(folder.parent().unwrap_or(folder)).map_err(failed)?;
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // Another process may have created it meanwhile.
        return builder.create(folder).or_else(|cause| {
            if folder.is_dir() {
                Ok(())
            } else {
                Err(failed(cause))
            }
        });
    }
    #[cfg(unix)]
    if tightens {
        use std::os::unix::fs::PermissionsExt;
        let is_open = folder
            .metadata()
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
        if is_open {
            // If the folder belongs to another user, the later write fails.
            let _ = std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700));
        }
    }
    #[cfg(not(unix))]
    let _ = tightens;
    Ok(())
}
