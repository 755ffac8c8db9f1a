//! Retries of requests: their number and the waits between them.

use std::time::Duration;

use super::client::Client;
use super::error::HubError;
use crate::report::{Event, Reporter};

/// Time limits and number of attempts.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts without progress before giving up.
    pub attempts: u32,
    /// Wait before the second attempt; each further wait is twice as long.
    pub first_wait: Duration,
    /// Longest wait, even if a server asks for more.
    pub longest_wait: Duration,
    /// Time limit of a connection.
    pub connect: Duration,
    /// Time limit of the next bytes of an answer.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_mins(1),
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
        }
    }
}

/// A failed attempt, and what follows it.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: Box<HubError>,
    pub next: Next,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// No further attempt, because it would fail too.
    GiveUp,
    /// Another attempt, after the wait that the server asks for, or a growing one.
    Again { wait: Option<Duration> },
    /// Another attempt with a new count of attempts, because there was progress.
    GoOn,
}

impl Failed {
    pub fn new(error: HubError, next: Next) -> Self {
        Self {
            error: Box::new(error),
            next,
        }
    }

    pub fn again(error: HubError) -> Self {
        Self::new(error, Next::Again { wait: None })
    }

    pub fn is_status(&self, expected: u16) -> bool {
        matches!(*self.error, HubError::Status { status, .. } if status == expected)
    }
}

impl<E: Into<HubError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::new(error.into(), Next::GiveUp)
    }
}

impl Client {
    /// Retries until it succeeds, cannot succeed, or the attempts are used up.
    pub(super) fn insist<T>(
        &self,
        attempts: u32,
        report: Reporter,
        mut work: impl FnMut() -> Result<T, Failed>,
    ) -> Result<T, HubError> {
        let mut tried = 0;
        loop {
            let failed = match work() {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            tried = if failed.next == Next::GoOn {
                1
            } else {
                tried + 1
            };
            if failed.next == Next::GiveUp || attempts == 1 {
                return Err(*failed.error);
            }
            if tried >= attempts {
                return Err(HubError::GaveUp {
                    error: failed.error,
                    attempts,
                    kept: String::new(),
                });
            }
            let grown = self.patience.first_wait * 2_u32.saturating_pow(tried - 1);
            let asked = if let Next::Again { wait } = failed.next {
                wait
            } else {
                None
            };
            let wait = asked.unwrap_or(grown).min(self.patience.longest_wait);
            report(Event::Note(format!(
                "{}; trying again in {} s",
                failed.error,
                wait.as_secs_f32().ceil()
            )));
            std::thread::sleep(wait);
        }
    }
}
