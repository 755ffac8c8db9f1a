//! What became of every row: nothing is dropped or cut without being counted.

use std::fmt;
use std::path::{Path, PathBuf};

use super::cache::Row;

/// The rows of each source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// One tally a source, in the recipe's order.
    pub sources: Vec<Tally>,
}

impl Ledger {
    /// All sources together.
    pub fn total(&self) -> Tally {
        self.sources.iter().fold(Tally::default(), Tally::and)
    }
}

/// Rows and tokens of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows that were read.
    pub rows: u64,
    /// Rows that are used.
    pub kept: u64,
    /// Rows that are left out because they are longer than the limit.
    pub too_long: u64,
    /// Kept rows whose tail was cut off.
    pub truncated: u64,
    /// Rows that are left out because no token of them is trained: empty ones, and those whose answer was cut off.
    pub untrained: u64,
    /// Tokens of the kept rows.
    pub tokens: u64,
    /// Tokens of the kept rows that carry a loss.
    pub trained_tokens: u64,
    /// The longest row, before it was cut or left out; the first of several.
    pub longest: Option<Longest>,
}

/// The longest row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Longest {
    /// Its length.
    pub tokens: usize,
    /// Its data file.
    pub file: PathBuf,
    /// Its row in that file, from 0.
    pub row: u64,
}

impl fmt::Display for Longest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} of `{}` with {} tokens", self.row, self.file.display(), self.tokens)
    }
}

impl Tally {
    /// Rows that are left out.
    pub fn dropped(&self) -> u64 {
        self.too_long + self.untrained
    }

    /// Rows that are left out, as a share of all; 0 where there are none.
    pub fn dropped_share(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.dropped() as f64 / self.rows as f64 }
    }

    /// Counts a row as read.
    pub(super) fn see(&mut self, tokens: usize, file: &Path, row: u64) {
        self.rows += 1;
        if self.longest.as_ref().is_none_or(|longest| tokens > longest.tokens) {
            self.longest = Some(Longest { tokens, file: file.to_owned(), row });
        }
    }

    /// Counts a row as kept.
    pub(super) fn keep(&mut self, row: &Row, is_cut: bool) {
        self.kept += 1;
        self.truncated += u64::from(is_cut);
        self.tokens += row.len() as u64;
        self.trained_tokens += row.trained_tokens() as u64;
    }

    fn and(self, other: &Self) -> Self {
        let longer = other.longest.clone().filter(|theirs| self.longest.as_ref().is_none_or(|ours| theirs.tokens > ours.tokens));
        Self {
            rows: self.rows + other.rows,
            kept: self.kept + other.kept,
            too_long: self.too_long + other.too_long,
            truncated: self.truncated + other.truncated,
            untrained: self.untrained + other.untrained,
            tokens: self.tokens + other.tokens,
            trained_tokens: self.trained_tokens + other.trained_tokens,
            longest: longer.or(self.longest),
        }
    }
}
