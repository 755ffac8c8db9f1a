//! Locations of values, so that a fault found much later still points at its line.

use std::fmt;
use std::path::PathBuf;

/// The location of a value. Locations in a file sort by line, before overrides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The recipe file, printed as `recipes/quickstart.yaml:3:5`.
    File {
        /// The path as the user gave it.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// An override on the command line, as typed.
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

/// A value that the user wrote, and its location.
#[derive(Debug, Clone, PartialEq)]
pub struct Said<T> {
    /// The value.
    pub value: T,
    /// Its location.
    pub place: Location,
}

impl<T> Said<T> {
    /// Returns another value at the same location.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Said<U> {
        Said {
            value: change(self.value),
            place: self.place,
        }
    }
}
