//! An event file: consecutive records, each with its length and checksums.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::Message;
use tensorboard_proto::event::Event as Record;
use tensorboard_rs::record_writer::RecordWriter;

use crate::files;

/// Prefix of the names of event files. Seconds since 1970 follow, and TensorBoard reads the files
/// of a folder in the order of their names.
const BEGINS: &str = "events.out.tfevents.";

/// A file of complete records.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl EventFile {
    /// Creates a file whose name sorts after those in the folder, whatever the clock says. Older
    /// files are unchanged.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(folder: &Path) -> Result<Self, files::FileError> {
        let failed = |action, path: &Path, cause| files::FileError::new(action, path, cause);
        files::create_folder(folder)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let entries = fs::read_dir(folder)
            .map_err(|cause| failed("read", folder, cause))?
            .flatten();
        let older = entries
            .filter_map(|entry| seconds(entry.file_name().to_str()?))
            .max();
        let mut second = older.map_or(now, |older| now.max(older + 1));
        loop {
            let path = folder.join(format!("{BEGINS}{second:010}.rankine"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    return Ok(Self {
                        path,
                        file,
                        bytes: 0,
                    });
                }
                Err(cause) if cause.kind() == ErrorKind::AlreadyExists => second += 1,
                Err(cause) => return Err(failed("make", &path, cause)),
            }
        }
    }

    /// Appends a record. If the disk is full, no partial record is left.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn append(&mut self, record: &Record) -> Result<(), files::FileError> {
        let mut framed = Vec::new();
        let encoded = record.write_to_bytes().map_err(std::io::Error::other);
        let written = encoded
            .and_then(|bytes| RecordWriter::new(&mut framed).write(&bytes))
            .and_then(|()| self.file.write_all(&framed));
        written.map_err(|cause| {
            let _ = self.file.set_len(self.bytes);
            files::FileError::writing(&self.path, framed.len() as u64, cause)
        })?;
        self.bytes += framed.len() as u64;
        Ok(())
    }
}

/// Returns the seconds in the name of an event file, which have ten digits until the year 2286.
fn seconds(name: &str) -> Option<u64> {
    name.strip_prefix(BEGINS)?
        .split('.')
        .next()
        .filter(|digits| digits.len() == 10)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_one_behind_the_other_whatever_the_clock_says() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let far = folder
            .path()
            .join("events.out.tfevents.7000000000.elsewhere.1.0");
        fs::write(&far, "").expect("written");
        fs::write(
            folder
                .path()
                .join("events.out.tfevents.18446744073709551615"),
            "",
        )
        .expect("written");
        let made = [(); 3].map(|()| EventFile::create(folder.path()).expect("made").path);
        assert!(
            far < made[0] && made.is_sorted() && made[0] != made[1],
            "{made:?}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_with_the_bytes_that_are_needed() {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().write(true).open(&path).expect("opened");
        let error = EventFile {
            path,
            file,
            bytes: 0,
        }
        .append(&Record::new())
        .expect_err("a full disk");
        assert!(
            error
                .to_string()
                .starts_with("cannot write `/dev/full`: No space left on device"),
            "{error}"
        );
    }
}
