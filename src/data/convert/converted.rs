//! Results of a conversion.

use super::names::Proposal;
use crate::files::Hash;

/// Result of a conversion.
#[derive(Debug)]
pub struct Converted {
    /// Number of rows in the Parquet file.
    pub rows: u64,
    /// Number of rows of the source that were left out.
    pub dropped: u64,
    /// The format that the columns fit.
    pub proposal: Option<Proposal>,
    /// Its columns.
    pub columns: Vec<ColumnFound>,
    /// Hash of the source; for several files, the hash of the lines that `b3sum` prints for them.
    pub source_hash: Hash,
    /// The stated license of the source.
    pub license: Option<String>,
    /// Size of the source in bytes.
    pub source_bytes: u64,
    /// Size of the Parquet file in bytes.
    pub bytes: u64,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// A column of the Parquet file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnFound {
    /// Its name.
    pub name: String,
    /// The name in the source; empty for a conversation made of several columns.
    pub source: String,
    /// Its content in words.
    pub holds: String,
    /// Whether values are kept as their JSON text.
    pub is_json: bool,
    /// Whether the format reads it.
    pub is_read: bool,
    /// Number of rows in which it is null.
    pub nulls: u64,
    /// Number of rows without this column.
    pub missing: u64,
}

impl ColumnFound {
    /// Counts the rows without a conversation, where the column was made of a prompt and an answer.
    pub(super) fn with_nulls(self, unanswered: u64) -> Self {
        let is_made = self.source.is_empty() && self.name == "messages";
        let nulls = if is_made { unanswered } else { self.nulls };
        Self { nulls, ..self }
    }
}
