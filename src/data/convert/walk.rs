//! A pass over all inputs: blocks in order, progress, and the hash of the bytes read.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use super::error::{ConvertError, LISTED};
use super::inputs::{Input, InputReader};
use super::piece::RecordBlock;
use super::row::Wrong;
use crate::fault::Fault;
use crate::files::{Hash, hash_bytes};
use crate::report::{Event, Reporter, Transfer};

/// Context shared by all passes.
pub(super) struct Work<'a> {
    pub inputs: &'a [Input],
    pub stop: &'a AtomicBool,
    pub report: Reporter<'a>,
    pub started: Instant,
    /// Bytes of the completed passes.
    pub done_bytes: Cell<u64>,
    /// Bytes of all passes.
    pub total_bytes: u64,
}

impl<'a> Work<'a> {
    pub fn new(
        inputs: &'a [Input],
        passes: u64,
        stop: &'a AtomicBool,
        report: Reporter<'a>,
    ) -> Self {
        let total_bytes = passes * inputs.iter().map(|input| input.bytes).sum::<u64>();
        Self {
            inputs,
            stop,
            report,
            started: Instant::now(),
            done_bytes: Cell::new(0),
            total_bytes,
        }
    }

    /// Reports progress, and ends the work if a signal came.
    ///
    /// # Errors
    /// A signal came.
    pub fn tell(&self, name: &str, bytes_of_file: u64) -> Result<(), ConvertError> {
        if self.stop.load(Relaxed) {
            return Err(ConvertError::Stopped);
        }
        let done_bytes = (self.done_bytes.get() + bytes_of_file).min(self.total_bytes);
        let bytes_per_second = done_bytes as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let file = format!("converting {name}");
        (self.report)(Event::Transfer(Transfer {
            file,
            done_bytes,
            total_bytes: self.total_bytes,
            bytes_per_second,
        }));
        Ok(())
    }

    /// Passes all blocks of all inputs to `take`, and returns the hash of the inputs: the hash of
    /// the file, or for several files the hash of the lines that `b3sum` would print for them.
    ///
    /// # Errors
    /// An input cannot be read, `take` fails, or a signal came.
    pub fn pass(
        &self,
        mut take: impl FnMut(&Input, &[String], RecordBlock) -> Result<(), ConvertError>,
    ) -> Result<(Hash, Vec<String>), ConvertError> {
        let (mut hashes, mut notes) = (Vec::new(), Vec::new());
        for input in self.inputs {
            self.tell(&input.name, 0)?;
            let mut reader = InputReader::open(input)?;
            while let Some(piece) = reader.next_piece()? {
                take(input, reader.header(), piece)?;
                self.tell(&input.name, reader.stream().bytes().min(input.bytes))?;
            }
            notes.extend(reader.notes(input));
            hashes.push((input.name.as_str(), reader.into_stream().finish()?));
            self.done_bytes.set(self.done_bytes.get() + input.bytes);
        }
        Ok((joined(&hashes), notes))
    }
}

/// Returns the joint hash of several files.
pub(super) fn joined(hashes: &[(&str, Hash)]) -> Hash {
    if let [(_, hash)] = hashes {
        return *hash;
    }
    let lines: String = hashes
        .iter()
        .map(|(name, hash)| format!("{hash}  {name}\n"))
        .collect();
    hash_bytes(lines.as_bytes())
}

/// Rows that are left out.
pub(super) struct Dropped {
    allowed: u64,
    pub count: u64,
    pub faults: Vec<Fault>,
}

impl Dropped {
    pub fn new(allowed: u64) -> Self {
        Self {
            allowed,
            count: 0,
            faults: Vec::new(),
        }
    }

    pub fn push(&mut self, path: &Path, wrong: Wrong) {
        self.count += 1;
        if self.faults.len() < LISTED {
            let column = wrong
                .column
                .map_or_else(String::new, |column| format!(":{column}"));
            self.faults.push(Fault::new(wrong.reason).at(format!(
                "{}:{}{column}",
                path.display(),
                wrong.line
            )));
        }
    }

    /// Checks the number of rows that are left out.
    ///
    /// # Errors
    /// More rows are left out than allowed.
    pub fn check(&self) -> Result<(), ConvertError> {
        if self.count <= self.allowed {
            return Ok(());
        }
        Err(ConvertError::Rows {
            faults: self.faults.clone(),
            count: self.count,
            allowed: self.allowed,
        })
    }
}
