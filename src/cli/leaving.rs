//! Ctrl-C while something is downloaded.

use super::Failure;
use crate::fault::Exit;
use crate::files;
use crate::report::say_now;

/// While this value lives, SIGINT and SIGTERM end the process with exit code 130 and a note on what
/// is kept.
///
/// Afterwards nobody handles them, so a caller that continues must install its own handler first.
pub(super) struct Leaving {
    #[cfg(unix)]
    handle: signal_hook::iterator::Handle,
}

impl Leaving {
    /// Starts to listen, in a separate thread.
    #[cfg(unix)]
    pub fn listen() -> Result<Self, Failure> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let failed =
            |cause| files::FileError::new("listen for", std::path::Path::new("SIGINT"), cause);
        let mut arriving =
            signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = arriving.handle();
        std::thread::spawn(move || {
            if arriving.forever().next().is_some() {
                say_now(
                    "stopped: what was downloaded stays, and the same command goes on from there",
                );
                std::process::exit(Exit::Signal as i32);
            }
        });
        Ok(Self { handle })
    }

    /// Does nothing. On this system, Ctrl-C ends the process, and downloaded bytes are kept.
    #[cfg(not(unix))]
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub fn listen() -> Result<Self, Failure> {
        Ok(Self {})
    }
}

#[cfg(unix)]
impl Drop for Leaving {
    fn drop(&mut self) {
        self.handle.close();
    }
}
