//! Large files read and written piece by piece. A new one is for a folder that takes its name only
//! when it is whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::{FileError, Hash, disk, open_file};

/// Bytes of a copied file that are in memory.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes after which what was written is sent on to the disk, while more is computed and written.
const AHEAD_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// A file that grows.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    /// Bytes that were written since the disk was last asked to take them.
    waiting_bytes: u64,
    flusher: Option<Flusher>,
}

/// A thread that forces a file to the disk whenever it is asked. At the end of a file there is then
/// little left to wait for.
#[derive(Debug)]
struct Flusher {
    ask: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flusher {
    fn start(file: File) -> Self {
        let (ask, asked) = sync_channel(1);
        let flush = move || asked.iter().try_for_each(|()| file.sync_data());
        Self {
            ask,
            thread: std::thread::spawn(flush),
        }
    }

    /// What went wrong on the way: a file tells of a lost write only once.
    fn finish(self) -> io::Result<()> {
        drop(self.ask);
        self.thread.join().expect("flushing does not panic")
    }
}

impl NewFile {
    /// Makes the file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let file = File::create(path).map_err(|cause| FileError::new("create", path, cause))?;
        Ok(Self::over(file, path))
    }

    /// An open file that will have the name `path`.
    pub(super) fn over(file: File, path: &Path) -> Self {
        Self {
            file,
            path: path.to_owned(),
            waiting_bytes: 0,
            flusher: None,
        }
    }

    /// Appends.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), FileError> {
        let failed = |cause| FileError::new("write", &self.path, cause);
        disk::write(&mut self.file, &self.path, piece).map_err(failed)?;
        self.waiting_bytes += piece.len() as u64;
        if self.waiting_bytes >= AHEAD_BYTES {
            if self.flusher.is_none() {
                self.flusher = Some(Flusher::start(self.file.try_clone().map_err(failed)?));
            }
            // One that is still at it, or that failed, is not waited for here.
            let asked = self
                .flusher
                .as_ref()
                .is_some_and(|flusher| flusher.ask.try_send(()).is_ok());
            self.waiting_bytes = if asked { 0 } else { self.waiting_bytes };
        }
        Ok(())
    }

    /// Forces the file to the disk.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn finish(self) -> Result<(), FileError> {
        self.flusher
            .map_or(Ok(()), Flusher::finish)
            .map_err(|cause| FileError::new("write", &self.path, cause))?;
        disk::sync(&self.file, &self.path)
            .map_err(|cause| FileError::new("write", &self.path, cause))
    }
}

/// A file that is read once from its beginning, and hashed on the way. A memory map of it would
/// count as memory of this process.
#[derive(Debug)]
pub struct OldFile {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
}

impl OldFile {
    /// Opens the file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self {
            file: open_file(path)?,
            path: path.to_owned(),
            hasher: blake3::Hasher::new(),
        })
    }

    /// The next bytes, as many as `piece` has room for.
    ///
    /// # Errors
    /// The file ends before them, or cannot be read.
    pub fn fill(&mut self, piece: &mut [u8]) -> Result<(), FileError> {
        self.file
            .read_exact(piece)
            .map_err(|cause| FileError::new("read", &self.path, cause))?;
        self.hasher.update(piece);
        Ok(())
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
pub fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let (mut source, mut copy) = (open_file(from)?, NewFile::create(to)?);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match source
            .read(&mut piece)
            .map_err(|cause| FileError::new("read", from, cause))?
        {
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
        let mut next = |length: usize| {
            let mut piece = vec![0; length];
            file.fill(&mut piece).map(|()| piece)
        };
        assert_eq!(next(2).expect("read"), b"12");
        assert_eq!(next(3).expect("read"), b"345");
        assert!(next(1).is_err(), "there is no more");
        assert_eq!(file.hash(), super::super::hash_bytes(b"12345"));
    }

    #[test]
    fn a_large_file_is_whole_though_the_disk_takes_it_on_the_way() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a");
        let mut file = NewFile::create(&path).expect("made");
        let piece = vec![7; AHEAD_BYTES as usize];
        (0..2).for_each(|_| file.write(&piece).expect("written"));
        assert!(file.flusher.is_some(), "the disk was asked");
        file.finish().expect("on the disk");
        assert_eq!(path.metadata().expect("there").len(), 2 * AHEAD_BYTES);
    }

    #[test]
    fn a_copy_has_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [from, to] = ["a", "b"].map(|name| dir.path().join(name));
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1] {
            let content: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            std::fs::write(&from, &content).expect("written");
            copy(&from, &to).expect("copied");
            assert!(
                std::fs::read(&to).expect("read") == content,
                "{length} bytes"
            );
        }
        assert!(copy(dir.path(), &to).is_err(), "a folder is no file");
    }
}
