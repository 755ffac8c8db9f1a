//! SIGINT, SIGTERM and SIGHUP (a closed terminal): the first one ends the run after its step and a
//! checkpoint, a second SIGINT ends it at once.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::folder::Traces;
use crate::fault::{Exit, shell_word};
use crate::files::FileError;
use crate::report::{Event, say_now};

/// Flags that a run shares with whoever may end it: the thread that hears signals, or the caller.
#[derive(Debug, Default)]
pub struct Signals {
    /// Set to end the run after its step.
    pub interrupt: AtomicBool,
    /// The training loop is running and checks `interrupt`. Before that, a signal ends the process
    /// at once.
    pub(super) looping: AtomicBool,
    /// There is a checkpoint of this run to resume from.
    pub(super) saved: AtomicBool,
    /// The loop has taken a step, or resumed after one.
    pub(super) stepped: AtomicBool,
    /// Files to remove if the run ends before its first step.
    traces: Mutex<Option<Traces>>,
}

impl Signals {
    /// Starts to listen in a separate thread, for the run in this folder.
    ///
    /// # Errors
    /// The system does not allow it.
    #[cfg(unix)]
    pub fn listen(run: &Path) -> Result<Arc<Self>, FileError> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let signals = Arc::new(Self::default());
        let heard = [SIGINT, SIGTERM]
            .into_iter()
            .chain((!is_hangup_ignored()).then_some(SIGHUP));
        let mut arriving = signal_hook::iterator::Signals::new(heard)
            .map_err(|cause| FileError::new("listen for signals of", run, cause))?;
        let (shared, run) = (Arc::clone(&signals), run.display().to_string());
        std::thread::spawn(move || {
            for signal in arriving.forever() {
                let is_first = !shared.interrupt.swap(true, Relaxed);
                if !shared.looping.load(Relaxed) || (signal == SIGINT && !is_first) {
                    shared.leave(&run);
                }
                if is_first && shared.stepped.load(Relaxed) {
                    say_now(
                        "stopping: the step is finished and saved first; Ctrl-C again leaves at \
                        once",
                    );
                } else if is_first {
                    say_now("stopping: no step is taken yet; Ctrl-C again leaves at once");
                }
            }
        });
        Ok(signals)
    }

    /// Does nothing. On this system, Ctrl-C ends the process, and the run can be resumed from its
    /// last checkpoint.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub fn listen(_run: &Path) -> Result<Arc<Self>, FileError> {
        Ok(Arc::default())
    }

    /// Records whether a step was taken or saved.
    pub(super) fn hear(&self, event: &Event) {
        self.stepped
            .fetch_or(matches!(event, Event::Step(_)), Relaxed);
        self.saved
            .fetch_or(matches!(event, Event::Saved { .. }), Relaxed);
    }

    /// Records what the run has created so far.
    pub(super) fn leaves(&self, traces: Traces) {
        *self.traces.lock().unwrap_or_else(PoisonError::into_inner) = Some(traces);
    }

    /// Removes what a run without a step has created.
    pub(super) fn remove_traces(&self) {
        if let Some(traces) = self
            .traces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            traces.remove();
        }
    }

    #[cfg(unix)]
    fn leave(&self, run: &str) -> ! {
        let exit = if self.saved.load(Relaxed) {
            say_now(&format!(
                "stopped. Continue from the last checkpoint with `rankine resume {}`",
                shell_word(run)
            ));
            Exit::Interrupted
        } else {
            if !self.stepped.load(Relaxed) {
                self.remove_traces();
            }
            say_now("stopped: nothing was saved");
            Exit::Signal
        };
        std::process::exit(exit as i32)
    }
}

/// Returns whether the process was started under `nohup` and should survive SIGHUP. If the system
/// does not report it, the answer is yes.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_none_or(|mask| mask & 1 != 0)
}
