//! BLAKE3 hashes of files. They identify bases and data in the lock and in the token cache.

use std::fmt;
use std::path::Path;

use super::{FileError, Map, map};

/// Bytes that are hashed at a time: enough for all threads, and small in memory.
const PIECE_BYTES: usize = 4 << 20;

/// BLAKE3 digest, printed as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Hash {
    /// Reads a digest from 64 lower-case hexadecimal digits.
    pub fn parse(digits: &str) -> Option<Self> {
        let is_hash = digits.len() == 64
            && digits
                .bytes()
                .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let byte = |place: usize| u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).ok();
        is_hash.then_some(())?;
        let bytes: Vec<u8> = (0..32).map_while(byte).collect();
        Some(Self(bytes.try_into().ok()?))
    }
}

/// Returns the hash of bytes in memory.
pub fn hash_bytes(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

/// Returns the hash of a file's content, computed by one thread.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file(path: &Path) -> Result<Hash, FileError> {
    let (map, mut hasher) = (map(path)?, blake3::Hasher::new());
    pieces(&map, 0).for_each(|piece| _ = hasher.update(piece));
    Ok(Hash(*hasher.finalize().as_bytes()))
}

/// Returns the hash of a file's content, computed by all threads. It starts the thread pool, so
/// call it only after the plan has set the number of threads.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file_in_parallel(path: &Path) -> Result<Hash, FileError> {
    let (map, mut hasher) = (map(path)?, blake3::Hasher::new());
    update_in_parallel(&mut hasher, &map, 0);
    Ok(Hash(*hasher.finalize().as_bytes()))
}

/// Adds a file's content from an offset on to the hash, using all threads.
pub fn update_in_parallel(hasher: &mut blake3::Hasher, map: &Map, start: usize) {
    pieces(map, start).for_each(|piece| _ = hasher.update_rayon(piece));
}

fn pieces(map: &Map, start: usize) -> impl Iterator<Item = &[u8]> {
    (start..map.len())
        .step_by(PIECE_BYTES)
        .map(|start| map.slice(start..map.len().min(start + PIECE_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_hashed_in_pieces_has_the_hash_of_its_bytes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a");
        for length in [0, 1, PIECE_BYTES, 5 * PIECE_BYTES + 3] {
            let content: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            std::fs::write(&path, &content).expect("written");
            let expected = hash_bytes(&content);
            assert_eq!(hash_file(&path).expect("read"), expected, "{length} bytes");
            assert_eq!(
                hash_file_in_parallel(&path).expect("read"),
                expected,
                "{length} bytes"
            );
        }
        assert!(hash_file(dir.path()).is_err(), "a folder has no content");
    }
}
