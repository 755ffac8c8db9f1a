//! A row as read from a source, or the reason why a record is none.

use serde_json::{Map, Value};

/// A row as read: values by column.
pub(super) type Row = Map<String, Value>;

/// Error of a record that is not a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The line, from 1.
    pub line: u64,
    /// The byte of that line, from 1, where it is known.
    pub column: Option<usize>,
    pub reason: String,
}
