//! Ctrl-C during generation: the first one ends the answer, the next one the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::files::FileError;

/// Flag that tells an answer to end.
#[derive(Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to listen. While the flag is set, Ctrl-C ends the program with exit code 130.
    ///
    /// # Errors
    /// The system does not let a process listen.
    #[cfg(unix)]
    pub fn listen() -> Result<Self, FileError> {
        use signal_hook::consts::SIGINT;
        use signal_hook::flag::{register, register_conditional_shutdown};
        let raised = Arc::new(AtomicBool::new(false));
        let leave = crate::fault::Exit::Signal as i32;
        // The handlers run in this order.
        register_conditional_shutdown(SIGINT, leave, Arc::clone(&raised))
            .and_then(|_| register(SIGINT, Arc::clone(&raised)))
            .map_err(|cause| FileError::new("listen for", std::path::Path::new("SIGINT"), cause))?;
        Ok(Self(raised))
    }

    /// Does nothing. On this system, Ctrl-C ends the process.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub fn listen() -> Result<Self, FileError> {
        Ok(Self(Arc::default()))
    }

    /// Returns whether the flag is set.
    pub fn is_raised(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Sets the flag. If it is set while there is no answer to end, Ctrl-C ends the program.
    pub fn set(&self, is_raised: bool) {
        self.0.store(is_raised, Relaxed);
    }
}
