//! Event files for TensorBoard: the numbers of `metrics.jsonl` as scalars, the answers of
//! `samples.jsonl` as text.
//!
//! They are for monitoring only, so they never delay or end a run. A separate thread writes them,
//! and after its first failure there is one warning and nothing more. Only the part of the crate
//! that returns errors is used; its own writer panics in a thread and in `Drop`. The format:
//! <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>

mod event;
mod file;

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use serde_json::Value;
use tensorboard_proto::event::Event as Record;

use super::Event;
use crate::files::panic_words;
use file::EventFile;

/// Most records that wait for the disk.
const WAITING: usize = 4096;
/// Longest wait for the last records at the end of a run.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes one event file for each session of a run.
#[derive(Debug)]
pub struct TensorBoard(RefCell<Option<Writer>>);

/// A thread that writes the records sent to it. It reports its result at the end or at its first
/// failure.
#[derive(Debug)]
struct Writer {
    records: SyncSender<Record>,
    outcome: Receiver<Result<(), String>>,
}

impl TensorBoard {
    /// Starts a new file in `folder`. It tells readers to drop the step `first` and later ones of
    /// older files. Lines of those steps that are still in `metrics` are written again.
    pub fn start(folder: &Path, first: u64, metrics: &Path) -> Self {
        let (records, received) = sync_channel(WAITING);
        let (done, outcome) = channel();
        let (folder, kept) = (folder.to_owned(), kept(metrics, first));
        std::thread::spawn(move || {
            let written =
                catch_unwind(AssertUnwindSafe(|| write(&folder, first, &kept, &received)));
            drop(received);
            // Nobody listens if the run did not wait.
            let _ = done.send(written.unwrap_or_else(|panic| Err(panic_words(&*panic).to_owned())));
        });
        Self(RefCell::new(Some(Writer { records, outcome })))
    }

    /// Writes an event. Returns a warning at the first failure; after that, nothing is written.
    pub fn take(&self, event: &Event) -> Option<String> {
        let mut writer = self.0.borrow_mut();
        let failed = match writer.as_ref()?.records.try_send(event::record(event)?) {
            Ok(()) => return None,
            Err(TrySendError::Full(_)) => "its disk does not keep up".to_owned(),
            Err(TrySendError::Disconnected(_)) => writer.take()?.end()?,
        };
        *writer = None;
        Some(warning(&failed))
    }

    /// Waits briefly until everything is written. Returns a warning if something went wrong and no
    /// warning was given before.
    pub fn finish(self) -> Option<String> {
        self.0.into_inner()?.end().map(|failed| warning(&failed))
    }
}

impl Writer {
    /// Returns why not everything was written, or `None` if all was.
    fn end(self) -> Option<String> {
        drop(self.records);
        match self.outcome.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome.err(),
            Err(_) => Some("its disk does not answer".to_owned()),
        }
    }
}

fn warning(failed: &str) -> String {
    format!(
        "nothing more is written for TensorBoard: {failed}; the run is not affected, and \
        `metrics.jsonl` has the numbers"
    )
}

fn write(
    folder: &Path,
    first: u64,
    kept: &[Value],
    records: &Receiver<Record>,
) -> Result<(), String> {
    let mut file = EventFile::create(folder).map_err(|error| error.to_string())?;
    let begins = [event::version(), event::session_start(first)]
        .into_iter()
        .chain(kept.iter().filter_map(event::scalars));
    begins
        .chain(records)
        .try_for_each(|record| file.append(&record))
        .map_err(|error| error.to_string())
}

/// Returns the lines of the step `first` and later ones. Lines that cannot be read are left out, as
/// they are for readers of the file itself.
fn kept(metrics: &Path, first: u64) -> Vec<Value> {
    let lines = File::open(metrics)
        .into_iter()
        .flat_map(|file| BufReader::new(file).lines().map_while(Result::ok));
    let values = lines.filter_map(|line| serde_json::from_str(&line).ok());
    values
        .filter(|line: &Value| line["step"].as_u64().is_some_and(|step| step >= first))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Sample;

    #[test]
    fn a_failure_is_told_once_and_a_writer_that_hangs_is_not_waited_for() {
        let place = tempfile::NamedTempFile::new().expect("a temporary file");
        let board = TensorBoard::start(place.path(), 0, Path::new("no metrics"));
        let event = Event::Sampled(Sample {
            step: 0,
            place: 0,
            prompt: String::new(),
            text: String::new(),
        });
        let warning = (0..10_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            board.take(&event)
        });
        assert!(warning.is_some_and(|warning| warning.contains(&*place.path().to_string_lossy())));
        assert_eq!((board.take(&event), board.finish()), (None, None));

        let (records, received) = sync_channel(1);
        let (_done, outcome) = channel();
        let board = TensorBoard(RefCell::new(Some(Writer { records, outcome })));
        assert_eq!(board.take(&event), None);
        assert!(
            board
                .take(&event)
                .is_some_and(|warning| warning.contains("does not keep up"))
        );
        assert_eq!(board.take(&event), None);
        drop(received);
    }

    #[test]
    fn a_writer_that_does_not_answer_is_left() {
        let (records, _received) = sync_channel(1);
        let (_done, outcome) = channel();
        let board = TensorBoard(RefCell::new(Some(Writer { records, outcome })));
        assert!(
            board
                .finish()
                .is_some_and(|warning| warning.contains("does not answer"))
        );
    }
}
