//! Large files that are read and written piece by piece. A new file belongs into a temporary
//! folder, which is renamed when it is complete.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::{FileError, Hash, disk, open_file};

/// Bytes of a copied file that are in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes after which written data is flushed to the disk in the background.
const AHEAD_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// A new file that is being written.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    /// Bytes written since the last flush was requested.
    waiting_bytes: u64,
    flusher: Option<Flusher>,
}

/// A thread that syncs a file to the disk on request, so that little is left to sync at the end.
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

    /// Returns the first error of the thread, because the system reports a lost write only once.
    fn finish(self) -> io::Result<()> {
        drop(self.ask);
        self.thread.join().expect("flushing does not panic")
    }
}

impl NewFile {
    /// Creates the file.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let file = File::create(path).map_err(|cause| FileError::new("create", path, cause))?;
        Ok(Self::over(file, path))
    }

    /// Wraps an open file that will get the name `path`.
    pub(super) fn over(file: File, path: &Path) -> Self {
        Self {
            file,
            path: path.to_owned(),
            waiting_bytes: 0,
            flusher: None,
        }
    }

    /// Appends bytes to the file.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), FileError> {
        let failed = |cause| FileError::new("write", &self.path, cause);
        disk::write(&mut self.file, &self.path, piece).map_err(failed)?;
        self.waiting_bytes += piece.len() as u64;
        if self.waiting_bytes >= AHEAD_BYTES {
            if self.flusher.is_none() {
                self.flusher = Some(Flusher::start(self.file.try_clone().map_err(failed)?));
            }
            // If the thread is busy or has failed, do not wait for it here.
            let asked = self
                .flusher
                .as_ref()
                .is_some_and(|flusher| flusher.ask.try_send(()).is_ok());
            self.waiting_bytes = if asked { 0 } else { self.waiting_bytes };
        }
        Ok(())
    }

    /// Syncs the file to the disk.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn finish(self) -> Result<(), FileError> {
        self.flusher
            .map_or(Ok(()), Flusher::finish)
            .map_err(|cause| FileError::new("write", &self.path, cause))?;
        disk::sync(&self.file, &self.path)
            .map_err(|cause| FileError::new("write", &self.path, cause))
    }
}

/// A file that is read once from start to end and hashed on the way. A memory map would count as
/// memory of this process.
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
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self {
            file: open_file(path)?,
            path: path.to_owned(),
            hasher: blake3::Hasher::new(),
        })
    }

    /// Reads the next bytes to fill `piece`.
    ///
    /// # Errors
    /// The file is too short or cannot be read.
    pub fn fill(&mut self, piece: &mut [u8]) -> Result<(), FileError> {
        self.file
            .read_exact(piece)
            .map_err(|cause| FileError::new("read", &self.path, cause))?;
        self.hasher.update(piece);
        Ok(())
    }

    /// Returns the hash of the bytes that were read.
    pub fn hash(&self) -> Hash {
        Hash(*self.hasher.finalize().as_bytes())
    }
}

/// Copies a file and syncs the copy to the disk.
///
/// # Errors
/// The file cannot be read or the copy cannot be written.
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
