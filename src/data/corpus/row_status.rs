//! The status of every row: each row that was read has exactly one.

use std::path::Path;

use super::token_slice::TokenSlice;

/// Status of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowStatus {
    /// Used for training.
    Train,
    /// Used only for validation.
    Validation,
    /// Not selected, because of `split` or `max_rows`.
    NotSelected,
    /// Left out: longer than the limit.
    TooLong,
    /// Left out: no token is trained. The row is empty, or its answer was cut off.
    NoTrainedToken,
    /// Left out: a pair whose chosen and rejected sequences are the same.
    EqualHalves,
    /// Left out: it makes no example.
    Broken,
    /// Left out: an earlier row has the same tokens and labels.
    Duplicate,
    /// Left out: nearly the same as an earlier row.
    NearDuplicate,
    /// Left out: nearly the same as a validation row.
    NearHeldOut,
}

impl RowStatus {
    /// Returns the word for the status in a ledger file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::NotSelected => "not_selected",
            Self::TooLong => "too_long",
            Self::NoTrainedToken => "no_trained_token",
            Self::EqualHalves => "equal_halves",
            Self::Broken => "broken",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near_duplicate",
            Self::NearHeldOut => "near_held_out",
        }
    }
}

/// A row within the limits that is left out as a duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// The kind of duplicate.
    pub status: RowStatus,
    /// The other row, by its number among all rows that were read, validation sets included.
    pub of: u64,
}

/// A row that was read, with its status.
#[derive(Debug, Clone, Copy)]
pub struct RowRecord<'a> {
    /// Index of its source.
    pub source: usize,
    /// Its data file.
    pub file: &'a Path,
    /// Its row in that file, from 0.
    pub row: u64,
    /// Its status.
    pub status: RowStatus,
    /// Its tokens: as used if it is kept, as read if it is too long; `None` if it is broken.
    pub tokens: Option<TokenSlice<'a>>,
    /// Number of tokens before the row was cut.
    pub whole_tokens: usize,
    /// Number of tokens of its longest sequence before it was cut.
    pub longest: usize,
    /// Whether an earlier kept row has the same tokens and labels; the row is kept nevertheless.
    pub is_duplicate: bool,
    /// The error of a broken row, its place in the file included.
    pub reason: Option<&'a str>,
    /// Number of the row that it duplicates, if it is left out for that.
    pub duplicate_of: Option<u64>,
    /// Its index among the rows within the limits, if it is kept.
    pub index: Option<u32>,
}

impl RowRecord<'_> {
    /// Returns the number of tokens in the row.
    pub fn len(&self) -> usize {
        self.tokens.map_or(0, |row| row.len())
    }

    /// Whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of tokens that carry a loss.
    pub fn trained_tokens(&self) -> usize {
        self.tokens.map_or(0, |row| row.trained_tokens())
    }

    /// Whether it is kept without its tail.
    pub fn is_truncated(&self) -> bool {
        self.index.is_some() && self.len() < self.whole_tokens
    }
}
