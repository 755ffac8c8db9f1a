//! What a panic says and what it means: the memory of a device ran out, a device failed, or the
//! program has a bug.
//!
//! burn reports a device that fails by a panic: of the thread that waits for the device, or of one
//! of burn's own threads, of which the waiting thread hears nothing but that it is gone. So a hook
//! reads every panic of the process and keeps the first cause.

mod chain;
mod device_fault;
mod status;

use std::any::Any;
use std::fmt;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use chain::last_cause;
pub use device_fault::DeviceFault;
pub use status::Status;

/// Bytes of a panic's words that are kept.
const MAX_KEPT_BYTES: usize = 16 << 10;

/// Why something panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A device had no more memory; the line that says so.
    OutOfMemory(String),
    /// A device or its driver failed.
    Device(DeviceFault),
    /// A bug of the program; the last cause that is given.
    Internal(String),
}

impl Cause {
    /// The cause of a panic that was caught: the first fault of a device that any thread reported,
    /// else what its payload says.
    pub fn of(panic: &(dyn Any + Send)) -> Self {
        let recorded = record().device.clone();
        recorded.unwrap_or_else(|| Self::read(words_of(panic)))
    }

    /// The cause that the words of a panic give.
    pub fn read(words: &str) -> Self {
        match DeviceFault::read(words) {
            Some(fault) if fault.is_out_of_memory() => Self::OutOfMemory(fault.words),
            // A device that is lost because its memory ran out says both.
            Some(fault) if fault.status.is_some() => Self::Device(fault),
            fault => match (chain::line_of_memory(words), fault) {
                (Some(line), _) => Self::OutOfMemory(chain::shortened(line.trim())),
                (None, Some(fault)) => Self::Device(fault),
                (None, None) => {
                    Self::Internal(chain::shortened(&last_cause(words).replace('\n', "; ")))
                }
            },
        }
    }

    fn is_internal(&self) -> bool {
        matches!(self, Self::Internal(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory(said) => write!(f, "out of memory: {said}"),
            Self::Device(fault) => fault.fmt(f),
            Self::Internal(said) => f.write_str(said),
        }
    }
}

/// What the panics of this process said.
struct PanicRecord {
    /// The first that came of a device: it is the cause of the others.
    device: Option<Cause>,
    /// Its words with their place, or those of the last panic where none came of a device.
    words: Option<String>,
}

static RECORD: Mutex<PanicRecord> = Mutex::new(PanicRecord {
    device: None,
    words: None,
});

fn record() -> MutexGuard<'static, PanicRecord> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hook of panics: keeps what they say and prints nothing.
pub fn hear(panic: &PanicHookInfo) {
    let words = panic.payload_as_str().unwrap_or("no message");
    let (cause, place) = (
        Cause::read(words),
        panic
            .location()
            .map(|place| format!("{place}: "))
            .unwrap_or_default(),
    );
    let mut record = record();
    if record.device.is_some() {
        return;
    }
    // Of a thread of burn's that is gone the one that waited hears nothing but this.
    if record.words.is_some() && words.contains("RecvError") {
        return;
    }
    record.words = Some(format!("{place}{}", chain::start_of(words, MAX_KEPT_BYTES)));
    record.device = Some(cause).filter(|cause| !cause.is_internal());
}

/// Forgets the fault of a device that was caught and told, so that no later panic is taken for its
/// consequence.
pub fn forget() {
    *record() = PanicRecord {
        device: None,
        words: None,
    };
}

/// All that the panic said that is to blame, with the line of source that it came from, up to 16
/// KiB.
pub fn whole_words() -> Option<String> {
    record().words.clone()
}

/// The words of a payload.
pub fn words_of(panic: &(dyn Any + Send)) -> &str {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    said.unwrap_or("no message")
}

#[cfg(test)]
mod tests;
