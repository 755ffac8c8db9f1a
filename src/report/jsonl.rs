//! `metrics.jsonl`: one object a step and one an evaluation, on disk as soon as it happened.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Event;
use crate::files;

/// The open file. A write that fails is kept until [`Metrics::finish`].
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: RefCell<Result<File, std::io::Error>>,
}

impl Metrics {
    /// Starts the file anew.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Self, files::Error> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path);
        let file = file.map_err(|cause| files::Error::new("create", path, cause))?;
        Ok(Self { path: path.to_owned(), file: RefCell::new(Ok(file)) })
    }

    /// Appends the events that it is for.
    pub fn take(&self, event: &Event) {
        let line = match event {
            Event::Step(step) => serde_json::to_string(step),
            Event::Evaluated(evaluation) => serde_json::to_string(evaluation),
            _ => return,
        };
        let line = line.expect("numbers can be printed") + "\n";
        let mut file = self.file.borrow_mut();
        let written = file.as_mut().map(|file| file.write_all(line.as_bytes()));
        if let Ok(Err(error)) = written {
            *file = Err(error);
        }
    }

    /// Tells whether every line was written.
    ///
    /// # Errors
    /// One was not.
    pub fn finish(self) -> Result<(), files::Error> {
        let synced = self.file.into_inner().and_then(|file| file.sync_all());
        synced.map_err(|cause| files::Error::new("write", &self.path, cause))
    }
}
