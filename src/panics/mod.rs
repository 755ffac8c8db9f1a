//! Panics and their causes: a device that ran out of memory, a device that failed, or a bug of the
//! program.
//!
//! burn reports a failing device by a panic. The panic may happen in the thread that waits for the
//! device, or in one of burn's own threads; then the waiting thread learns only that the other is
//! gone. So a hook reads every panic of the process and keeps the first cause.

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

/// Most bytes of a panic message that are kept.
const MAX_KEPT_BYTES: usize = 16 << 10;

/// Cause of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A device ran out of memory; the line that reports it.
    OutOfMemory(String),
    /// A device or its driver failed.
    Device(DeviceFault),
    /// A bug of the program; the last cause in the message.
    Internal(String),
}

impl Cause {
    /// Returns the cause of a caught panic: the first device fault that any thread reported,
    /// otherwise the cause in its payload.
    pub fn of(panic: &(dyn Any + Send)) -> Self {
        let recorded = record().device.clone();
        recorded.unwrap_or_else(|| Self::read(words_of(panic)))
    }

    /// Reads the cause from a panic message.
    pub fn read(words: &str) -> Self {
        match DeviceFault::read(words) {
            Some(fault) if fault.is_out_of_memory() => Self::OutOfMemory(fault.words),
            // A device that is lost because its memory ran out reports both.
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

/// Record of the panics of this process.
struct PanicRecord {
    /// Cause of the first panic from a device, which is the cause of later ones.
    device: Option<Cause>,
    /// Message and place of that panic, or of the last panic if none came from a device.
    words: Option<String>,
}

static RECORD: Mutex<PanicRecord> = Mutex::new(PanicRecord {
    device: None,
    words: None,
});

fn record() -> MutexGuard<'static, PanicRecord> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Panic hook that records messages and prints nothing.
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
    // This is all that a waiting thread learns when a thread of burn is gone.
    if record.words.is_some() && words.contains("RecvError") {
        return;
    }
    record.words = Some(format!("{place}{}", chain::start_of(words, MAX_KEPT_BYTES)));
    record.device = Some(cause).filter(|cause| !cause.is_internal());
}

/// Forgets a device fault that was caught and reported, so that no later panic is taken for its
/// consequence.
pub fn forget() {
    *record() = PanicRecord {
        device: None,
        words: None,
    };
}

/// Returns the recorded panic message with its source line, up to 16 KiB.
pub fn whole_words() -> Option<String> {
    record().words.clone()
}

/// Returns the message in a panic payload.
pub fn words_of(panic: &(dyn Any + Send)) -> &str {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    said.unwrap_or("no message")
}

#[cfg(test)]
mod tests;
