//! What every run of a user may share.

use std::path::PathBuf;

/// Where token caches, proofs and compiled kernels are: `RANKINE_CACHE`, or the user's cache folder.
pub fn cache_folder() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || of("XDG_CACHE_HOME").or_else(|| of("LOCALAPPDATA")).or_else(|| of("HOME").map(|home| home.join(".cache")));
    of("RANKINE_CACHE").unwrap_or_else(|| user().unwrap_or_else(std::env::temp_dir).join("rankine"))
}
