//! Large files read and written piece by piece. A new one is for a folder that takes its name only when it is whole.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Error, Hash, disk, open_file};

/// Bytes of a copied file that are in memory.
const PIECE_BYTES: usize = 1 << 20;

/// A file that grows.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
}

impl NewFile {
    /// Makes the file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|cause| Error::new("create", path, cause))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// An open file that will have the name `path`.
    pub(super) fn over(file: File, path: &Path) -> Self {
        Self { file, path: path.to_owned() }
    }

    /// Appends.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        disk::write(&mut self.file, &self.path, piece).map_err(|cause| Error::new("write", &self.path, cause))
    }

    /// Forces the file to the disk.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn finish(self) -> Result<(), Error> {
        disk::sync(&self.file, &self.path).map_err(|cause| Error::new("write", &self.path, cause))
    }
}

/// A file that is read once from its beginning, and hashed on the way. A memory map of it would count as memory of this process.
#[derive(Debug)]
pub struct OldFile {
    file: File,
    path: PathBuf,
    piece: Vec<u8>,
    hasher: blake3::Hasher,
}

impl OldFile {
    /// Opens the file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { file: open_file(path)?, path: path.to_owned(), piece: Vec::new(), hasher: blake3::Hasher::new() })
    }

    /// The next so many bytes.
    ///
    /// # Errors
    /// The file ends before them, or cannot be read.
    pub fn next(&mut self, bytes: usize) -> Result<&[u8], Error> {
        self.piece.resize(bytes, 0);
        self.file.read_exact(&mut self.piece).map_err(|cause| Error::new("read", &self.path, cause))?;
        self.hasher.update(&self.piece);
        Ok(&self.piece)
    }

    /// The hash of what was read.
    pub fn hash(&self) -> Hash {
        Hash(*self.hasher.finalize().as_bytes())
    }
}

/// Copies a file, and forces the copy to the disk.
///
/// # Errors
/// One cannot be read or the other not be written.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let (mut source, mut copy) = (open_file(from)?, NewFile::create(to)?);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match source.read(&mut piece).map_err(|cause| Error::new("read", from, cause))? {
            0 => return copy.finish(),
            bytes => copy.write(&piece[..bytes])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_in_pieces_has_the_hash_of_the_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a");
        std::fs::write(&path, b"12345").expect("written");
        let mut file = OldFile::open(&path).expect("opened");
        assert_eq!(file.next(2).expect("read"), b"12");
        assert_eq!(file.next(3).expect("read"), b"345");
        assert_eq!(file.hash(), super::super::hash_bytes(b"12345"));
        assert!(file.next(1).is_err(), "there is no more");
    }

    #[test]
    fn a_copy_has_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [from, to] = ["a", "b"].map(|name| dir.path().join(name));
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1] {
            let content: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            std::fs::write(&from, &content).expect("written");
            copy(&from, &to).expect("copied");
            assert!(std::fs::read(&to).expect("read") == content, "{length} bytes");
        }
        assert!(copy(dir.path(), &to).is_err(), "a folder is no file");
    }
}
