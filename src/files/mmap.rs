//! Memory maps of read-only files that keep little resident memory. The system counts every page
//! that was touched, and maps sixteen pages around each missing one.
#![allow(
    unsafe_code,
    reason = "a memory map is only sound while nobody truncates the file"
)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use memmap2::Mmap;

use super::{FileError, open_file};

/// Bytes that Linux maps at a page fault (`fault_around_bytes`).
const WINDOW_BYTES: usize = 64 << 10;
/// Total number of touched windows above which a map with its share of them releases its own.
const RESIDENT_WINDOWS: usize = 256;

/// Windows that were touched and not released, over all maps; a data set may have a thousand files.
static WINDOWS_SEEN: AtomicUsize = AtomicUsize::new(0);
/// Number of maps.
static MAPS: AtomicUsize = AtomicUsize::new(0);

/// A memory-mapped file.
///
/// Bytes read through [`Map::slice`] stay resident up to 32 MiB over all maps, plus the latest
/// slice. Bytes read in another way are not counted, and are released with the rest.
#[derive(Debug)]
pub struct Map {
    map: Mmap,
    /// One bit per window.
    seen: Vec<AtomicU64>,
    windows_seen: AtomicUsize,
}

/// Maps a whole file for reading.
///
/// # Errors
/// The file cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Map, FileError> {
    map_file(&open_file(path)?, path)
}

/// Maps a whole open file; `path` is its name in messages.
///
/// # Errors
/// The file cannot be mapped.
pub fn map_file(file: &File, path: &Path) -> Result<Map, FileError> {
    // SAFETY: the map is read-only. Base models, data sets and cache files are replaced by rename,
    // never written in place by us; another program that truncates one under a run ends the run
    // with SIGBUS, which no reader can prevent.
    let map = unsafe { Mmap::map(file) }.map_err(|cause| FileError::new("map", path, cause))?;
    MAPS.fetch_add(1, Relaxed);
    let words = map.len().div_ceil(WINDOW_BYTES).div_ceil(64);
    Ok(Map {
        map,
        seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
        windows_seen: AtomicUsize::new(0),
    })
}

impl Map {
    /// Returns bytes of the file.
    ///
    /// # Panics
    /// The range is outside the file.
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        let bytes = &self.map[range.clone()];
        if self.look_at(&range) {
            self.release();
            self.look_at(&range);
        }
        bytes
    }

    /// Releases the memory of all pages that were touched. They are read again from the system's
    /// page cache when needed.
    pub fn release(&self) {
        self.forget();
        #[cfg(unix)]
        // SAFETY: the map is of a file and read-only, so a page that is given back comes again with
        // what the file holds. It is advice: where the system does not take it, the pages stay.
        let _ = unsafe {
            self.map
                .unchecked_advise(memmap2::UncheckedAdvice::DontNeed)
        };
    }

    fn forget(&self) {
        self.seen.iter().for_each(|word| word.store(0, Relaxed));
        // Counted for all first and here second, so that never more is taken away than was added.
        WINDOWS_SEEN.fetch_sub(self.windows_seen.swap(0, Relaxed), Relaxed);
    }

    /// Marks the windows of a range, and returns whether too many are resident. With `n` maps, a
    /// map releases no fewer than an `n`-th of the limit, so that releases are rare.
    fn look_at(&self, range: &Range<usize>) -> bool {
        let mut new = 0;
        for window in range.start / WINDOW_BYTES..range.end.div_ceil(WINDOW_BYTES) {
            let (word, bit) = (&self.seen[window / 64], 1 << (window % 64));
            if word.load(Relaxed) & bit == 0 {
                new += usize::from(word.fetch_or(bit, Relaxed) & bit == 0);
            }
        }
        if new == 0 {
            return false;
        }
        let all = WINDOWS_SEEN.fetch_add(new, Relaxed) + new;
        let own = self.windows_seen.fetch_add(new, Relaxed) + new;
        all > RESIDENT_WINDOWS && own >= RESIDENT_WINDOWS / MAPS.load(Relaxed).max(1)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        MAPS.fetch_sub(1, Relaxed);
        self.forget();
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the resident bytes of a mapping.
    #[cfg(target_os = "linux")]
    fn resident_bytes(map: &Map) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("read");
        let start = format!("{:x}-", map.as_ptr().addr());
        let of_map = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let rss = of_map
            .into_iter()
            .find_map(|line| line.strip_prefix("Rss:"))
            .expect("it is mapped");
        rss.trim()
            .trim_end_matches(" kB")
            .parse::<usize>()
            .expect("a number")
            << 10
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_is_read_whole_stays_in_memory_in_part() {
        const BYTES: usize = 64 << 20;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a");
        let content: Vec<u8> = (0..BYTES).map(|index| (index / 4096 % 251) as u8).collect();
        std::fs::write(&path, &content).expect("written");
        let map = map(&path).expect("mapped");
        for start in (0..BYTES).step_by(5000) {
            let end = BYTES.min(start + 5000);
            assert!(
                map.slice(start..end) == &content[start..end],
                "byte {start}"
            );
        }
        let bounded = resident_bytes(&map);
        assert!(
            bounded <= (RESIDENT_WINDOWS + 2) * WINDOW_BYTES,
            "{bounded}"
        );
        assert!(
            map.iter()
                .zip(&content)
                .all(|(read, written)| read == written)
        );
        assert!(resident_bytes(&map) > bounded, "what is not counted stays");
        map.release();
        assert_eq!(resident_bytes(&map), 0);
        assert!(map.slice(0..BYTES) == content, "it comes back");
    }

    #[test]
    fn an_empty_file_has_no_bytes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("a"), b"").expect("written");
        assert!(
            map(&dir.path().join("a"))
                .expect("mapped")
                .slice(0..0)
                .is_empty()
        );
    }
}
