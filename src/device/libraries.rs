//! Looks for a driver's libraries where the system's loader looks, so that a missing one can be
//! named before a backend panics.

use std::path::{Path, PathBuf};

/// Finds a library by the beginning of its file's name, such as `libcuda.so`. Sources: ld.so(8);
/// for Windows and WSL the places that NVIDIA's installers use.
pub(super) fn find(beginning: &str) -> Option<PathBuf> {
    let said = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/lib",
        "/usr/lib",
        "/lib64",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/lib/wsl/lib",
        "C:/Windows/System32",
    ];
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let multi = ["/lib", "/usr/lib"].map(|folder| Path::new(folder).join(&triple));
    let folders = std::env::split_paths(&said)
        .chain(usual.map(PathBuf::from))
        .chain(multi);
    find_in(folders, beginning)
        .or_else(|| find_in_cache(&std::fs::read("/etc/ld.so.cache").ok()?, beginning))
}

/// Returns the first file in some folders whose name begins so.
fn find_in(folders: impl Iterator<Item = PathBuf>, beginning: &str) -> Option<PathBuf> {
    files(folders, beginning).next()
}

/// Returns every file in some folders whose name begins so, folder by folder, sorted by name.
#[cfg(feature = "cuda")]
pub(super) fn find_all(folders: impl Iterator<Item = PathBuf>, beginning: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = files(folders, beginning).collect();
    found.dedup();
    found
}

fn files(folders: impl Iterator<Item = PathBuf>, beginning: &str) -> impl Iterator<Item = PathBuf> {
    let begins = move |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(beginning))
    };
    let entries = |folder: PathBuf| {
        let mut entries: Vec<PathBuf> = folder
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        entries
    };
    folders
        .filter(|folder| !folder.as_os_str().is_empty())
        .flat_map(entries)
        .filter(move |path| begins(path) && path.exists())
}

/// Finds a library in the loader's cache, which holds paths as strings that end with a zero byte.
fn find_in_cache(cache: &[u8], beginning: &str) -> Option<PathBuf> {
    let paths = cache
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text).ok())
        .map(Path::new);
    let begins = |path: &&Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(beginning))
    };
    paths
        .filter(|path| path.is_absolute())
        .filter(begins)
        .find(|path| path.exists())
        .map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_in_a_folder_and_in_the_loaders_cache() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let library = folder.path().join("libcuda.so.1");
        let folders = || [PathBuf::new(), folder.path().to_owned()].into_iter();
        let cache = format!("ld.so\0libcuda.so.1\0{}\0", library.display());
        assert_eq!(find_in(folders(), "libcuda.so"), None);
        assert_eq!(
            find_in_cache(cache.as_bytes(), "libcuda.so"),
            None,
            "what is listed and gone is not there"
        );
        std::fs::write(&library, "").expect("written");
        assert_eq!(find_in(folders(), "libcuda.so").as_ref(), Some(&library));
        assert_eq!(find_in_cache(cache.as_bytes(), "libcuda.so"), Some(library));
        assert_eq!(find_in(folders(), "libnvrtc.so"), None);
    }
}
