//! What every run of a user may share, and where the rows of a run's data are kept as tokens.
//!
//! The cache folder has a room for each kind of thing: `rows` for what is made of data files,
//! `proofs` and `kernels` for what is not. Only the first holds anything of the data: see
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
pub use named::give_name;

use super::{FileError, parse_bytes};

/// The room of the cache folder that holds what is made of data files.
const ROWS: &str = "rows";
/// What the entries of the cache may take, where nobody says it.
const LIMIT_BYTES: u64 = 20_000_000_000;
/// The variable that says what they may take.
pub const LIMIT: &str = "RANKINE_CACHE_LIMIT";

/// Where token caches, proofs and compiled kernels are: `RANKINE_CACHE`, or the user's cache
/// folder.
pub fn cache_folder() -> PathBuf {
    of_variable("RANKINE_CACHE").unwrap_or_else(default_folder)
}

fn of_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The user's home: `HOME`, or what the system has for the user.
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

/// What the entries of the user's cache may take, bytes: `RANKINE_CACHE_LIMIT`, or 20 GB.
///
/// # Errors
/// The variable holds something else, as it stands there.
pub fn cache_limit() -> Result<u64, String> {
    let Some(said) = std::env::var_os(LIMIT).filter(|value| !value.is_empty()) else {
        return Ok(LIMIT_BYTES);
    };
    let said = said.to_string_lossy().into_owned();
    parse_bytes(said.trim()).ok_or(said)
}

/// Where rows are kept in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowCache {
    /// In the cache that all runs share, whose folder this is.
    Shared(PathBuf),
    /// In a folder of one run.
    OfRun(PathBuf),
    /// In files without a name, on the disk of the first of these folders that takes one. The
    /// system frees them when the process ends, however it ends.
    Nameless(Vec<PathBuf>),
}

impl From<&PathBuf> for RowCache {
    fn from(folder: &PathBuf) -> Self {
        Self::Shared(folder.clone())
    }
}

impl RowCache {
    /// The folder of the entries; `None` where they have no names.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Shared(folder) => Some(folder.join(ROWS)),
            Self::OfRun(folder) => Some(folder.clone()),
            Self::Nameless(_) => None,
        }
    }

    /// Folders on whose disk an entry can be written, the best first; the folder of the entries is
    /// made where it is missing, for this user alone.
    ///
    /// # Errors
    /// It cannot be made.
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

/// Makes a cache folder, for this user alone. One that is there and was named by the user keeps its
/// rights: it may be anything.
///
/// # Errors
/// It cannot be made.
pub fn private_cache_folder(root: &Path) -> Result<(), FileError> {
    private_folder(
        root,
        root == default_folder() && of_variable("RANKINE_CACHE").is_none(),
    )
}

/// Makes a folder that only this user can enter, and takes the rights of others from one that is
/// there.
fn private_folder(folder: &Path, tightens: bool) -> Result<(), FileError> {
    if !folder.is_dir() {
        let failed = |cause| FileError::new("create", folder, cause);
        std::fs::create_dir_all(folder.parent().unwrap_or(folder)).map_err(failed)?;
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // Another process may have been faster.
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
            // Of another user's folder writing will tell.
            let _ = std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700));
        }
    }
    #[cfg(not(unix))]
    let _ = tightens;
    Ok(())
}
