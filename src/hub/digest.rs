//! Hashes by which the Hub identifies contents: SHA-256 of large files, git's hash of small ones.
//! Both are file names in the cache.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Expected hash of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-256 of the bytes, 64 digits.
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the bytes, 40 digits
    /// (<https://git-scm.com/book/en/v2/Git-Internals-Git-Objects>).
    GitBlob(String),
}

impl Digest {
    /// Returns the digits.
    pub fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::GitBlob(text) => text,
        }
    }

    /// Returns the name of the hash in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "git hash",
        }
    }

    /// Makes a hasher of the same kind, for a content of this many bytes.
    pub fn hasher(&self, bytes: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitBlob(_) => Hasher::git_blob(bytes),
        }
    }
}

/// A hash that is being computed.
#[derive(Debug, Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub fn git_blob(bytes: u64) -> Self {
        Self::GitBlob(Sha1::new_with_prefix(format!("blob {bytes}\0")))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the hash of everything so far, as digits.
    pub fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::GitBlob(hasher) => hex(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are those of `sha256sum` and `git hash-object`.
    #[test]
    fn hashes_are_those_of_the_tools() {
        let of = |digest: Digest| {
            let mut hasher = digest.hasher(6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            hasher.finish()
        };
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(Digest::Sha256(String::new())), sha256);
        assert_eq!(
            of(Digest::GitBlob(String::new())),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
    }
}
