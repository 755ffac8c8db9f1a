//! blake3 of files, the identity of bases and data in the lock and in the token cache.

use std::fmt;
use std::path::Path;

use super::Error;

/// A blake3 digest, printed as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The hash of bytes in memory.
pub fn hash_bytes(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

/// The hash of a file's content, through a memory map.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file(path: &Path) -> Result<Hash, Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap(path).map_err(|cause| Error::new("read", path, cause))?;
    Ok(Hash(*hasher.finalize().as_bytes()))
}
