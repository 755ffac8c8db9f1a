//! What was written and where, so that a fault found much later still points at its line.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from. Places of a file sort before overrides, and by line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The recipe file, printed as `recipes/quickstart.yaml:3:5`.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// An override of the command line, as it was typed.
    Override(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Override(typed) => write!(f, "override `{typed}`"),
        }
    }
}

/// A value that the user wrote, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Said<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Location,
}

impl<T> Said<T> {
    /// The same place with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Said<U> {
        Said {
            value: change(self.value),
            place: self.place,
        }
    }
}
