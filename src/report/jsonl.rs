//! Files of JSON lines: `metrics.jsonl` with one object per step or evaluation, and `samples.jsonl`
//! with one per answer, in order.
//!
//! A resumed run truncates its files to the length at its checkpoint, so that no line appears
//! twice.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Event, Reporter};
use crate::files;

/// An open file of JSON lines.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl JsonLines {
    /// Opens the file and keeps its first `bytes`; 0 starts a new file. If the file is shorter, a
    /// note says so.
    ///
    /// # Errors
    /// The file cannot be created or truncated.
    pub fn open(path: &Path, bytes: u64, report: Reporter) -> Result<Self, files::FileError> {
        let failed = |cause| files::FileError::new("write", path, cause);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found < bytes {
            let path = path.display();
            report(Event::Note(format!(
                "`{path}` has {found} bytes, the checkpoint knew {bytes}: lines before it are lost"
            )));
        }
        let bytes = bytes.min(found);
        file.set_len(bytes)
            .and_then(|()| file.seek(std::io::SeekFrom::End(0)))
            .map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
        })
    }

    /// Appends a line. If the disk is full, no partial line is left.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn append(&mut self, line: &impl Serialize) -> Result<(), files::FileError> {
        let line = serde_json::to_string(line).expect("numbers can be printed") + "\n";
        self.file.write_all(line.as_bytes()).map_err(|cause| {
            let _ = self.file.set_len(self.bytes);
            files::FileError::writing(&self.path, line.len() as u64, cause)
        })?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Syncs the file to the disk and returns its length.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self) -> Result<u64, files::FileError> {
        self.file
            .sync_all()
            .map_err(|cause| files::FileError::new("sync", &self.path, cause))?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_file_is_cut_back_and_goes_on() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let notes = RefCell::new(Vec::new());
        let report = |event| notes.borrow_mut().push(event);
        let mut metrics = JsonLines::open(&path, 0, &report).expect("made");
        metrics.append(&1).expect("written");
        let seen = metrics.sync().expect("synced");
        metrics.append(&2).expect("written");
        drop(metrics);
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("opened")
            .write_all(b"{\"torn")
            .expect("written");

        let mut metrics = JsonLines::open(&path, seen, &report).expect("opened");
        metrics.append(&3).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "1\n3\n");
        assert!(notes.borrow().is_empty());
        JsonLines::open(&path, 9, &report).expect("opened");
        assert!(
            matches!(&notes.borrow()[..], [Event::Note(note)] if note.contains("has 4 bytes, the \
                checkpoint knew 9"))
        );
    }
}
