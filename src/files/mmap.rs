//! Memory maps of read-only files.
#![allow(unsafe_code, reason = "a memory map is only sound while nobody truncates the file")]

use std::path::Path;

use memmap2::Mmap;

use super::{Error, open_file};

/// Maps a whole file for reading.
///
/// # Errors
/// The file cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Mmap, Error> {
    let file = open_file(path)?;
    // SAFETY: the map is read-only. Base models, data sets and cache files are replaced by rename, never written in place
    // by us; another program that truncates one under a run ends the run with SIGBUS, which no reader can prevent.
    unsafe { Mmap::map(&file) }.map_err(|cause| Error::new("map", path, cause))
}
