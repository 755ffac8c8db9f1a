//! Progress of transferred bytes, as events.

use std::time::{Duration, Instant};

use crate::report::{Event, Reporter, Transfer};

/// Shortest time between two events.
const EVERY: Duration = Duration::from_millis(100);

/// Progress over all files of one pull or push.
pub(super) struct Progress<'a> {
    report: Reporter<'a>,
    total_bytes: u64,
    /// Bytes that are done, including those from before.
    pub done_bytes: u64,
    /// Bytes that were transferred in this call.
    pub moved_bytes: u64,
    started: Instant,
    last: Option<Instant>,
}

impl<'a> Progress<'a> {
    pub fn new(report: Reporter<'a>, total_bytes: u64, done_bytes: u64) -> Self {
        Self {
            report,
            total_bytes,
            done_bytes,
            moved_bytes: 0,
            started: Instant::now(),
            last: None,
        }
    }

    /// Records transferred bytes of this file.
    pub fn moved(&mut self, file: &str, bytes: u64) {
        self.done_bytes += bytes;
        self.moved_bytes += bytes;
        if self.done_bytes < self.total_bytes
            && self.last.is_some_and(|last| last.elapsed() < EVERY)
        {
            return;
        }
        self.last = Some(Instant::now());
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        (self.report)(Event::Transfer(Transfer {
            file: file.to_owned(),
            done_bytes: self.done_bytes.min(self.total_bytes),
            total_bytes: self.total_bytes,
            bytes_per_second: self.moved_bytes as f64 / seconds,
        }));
    }

    /// Takes back bytes that have to be transferred again.
    pub fn lost(&mut self, bytes: u64) {
        self.done_bytes = self.done_bytes.saturating_sub(bytes);
    }

    pub fn reporter(&self) -> Reporter<'a> {
        self.report
    }
}
