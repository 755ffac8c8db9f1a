//! Counts of what became of every row: nothing is dropped or cut without a line here.

use std::fmt;
use std::path::PathBuf;

use super::row_status::{RowRecord, RowStatus};
use crate::data::visible::visible;

/// Row counts of each source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// One entry per source, in the recipe's order.
    pub sources: Vec<RowCounts>,
}

impl Ledger {
    /// Returns the counts of all sources together.
    pub fn total(&self) -> RowCounts {
        self.sources
            .iter()
            .fold(RowCounts::default(), RowCounts::and)
    }

    /// Adds the counts of `other`, which are of later rows of the same sources.
    #[must_use]
    pub(super) fn and(self, other: &Self) -> Self {
        Self {
            sources: self
                .sources
                .into_iter()
                .zip(&other.sources)
                .map(|(tally, later)| tally.and(later))
                .collect(),
        }
    }
}

/// Counts of a source's rows and tokens. Every row that was read has one status, so the row counts
/// add up to the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows that were read.
    pub rows: u64,
    /// Rows that are trained on.
    pub train: u64,
    /// Rows that are only used for validation.
    pub validation: u64,
    /// Rows that are not selected, because of `split` or `max_rows`.
    pub not_selected: u64,
    /// Rows that are left out because they are longer than the limit.
    pub too_long: u64,
    /// Rows that are left out because no token of theirs is trained: empty rows, and rows whose
    /// answer was cut off.
    pub untrained: u64,
    /// Pairs that are left out because their chosen and rejected sequences are the same.
    pub equal_halves: u64,
    /// Rows that are left out because they make no example.
    pub broken: u64,
    /// Rows that are left out because an earlier one has the same tokens and labels.
    pub exact_duplicates: u64,
    /// Rows that are left out because they are nearly the same as an earlier one.
    pub near_duplicates: u64,
    /// Rows that are left out because they are nearly the same as a validation row.
    pub near_held_out: u64,
    /// Kept rows whose tail was cut off.
    pub truncated: u64,
    /// Kept rows that equal an earlier one.
    pub duplicates: u64,
    /// Tokens of the kept rows.
    pub tokens: u64,
    /// Tokens of the kept rows that carry a loss.
    pub trained_tokens: u64,
    /// The longest row, before it was cut or left out, or that with the longest sequence; the first
    /// of several equally long ones.
    pub longest: Option<Longest>,
    /// The place of the first broken row, and its error.
    pub first_broken: Option<String>,
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
        write!(
            f,
            "row {} of `{}` with {} tokens",
            self.row,
            visible(&self.file.display().to_string()),
            self.tokens
        )
    }
}

impl RowCounts {
    /// Returns the number of rows that are used.
    pub fn kept(&self) -> u64 {
        self.train + self.validation
    }

    /// Returns the number of selected rows.
    pub fn selected(&self) -> u64 {
        self.rows - self.not_selected
    }

    /// Returns the number of selected rows that are left out.
    pub fn dropped(&self) -> u64 {
        self.unusable() + self.alike()
    }

    /// Returns the number of rows that are left out because of their own content.
    pub fn unusable(&self) -> u64 {
        self.too_long + self.untrained + self.equal_halves + self.broken
    }

    /// Returns the number of rows that are left out as exact or near-duplicates.
    pub fn alike(&self) -> u64 {
        self.exact_duplicates + self.near_duplicates + self.near_held_out
    }

    /// Returns the share of selected rows that are left out because of their own content; 0 if none
    /// are selected.
    pub fn unusable_share(&self) -> f64 {
        if self.selected() == 0 {
            0.0
        } else {
            self.unusable() as f64 / self.selected() as f64
        }
    }

    /// Counts a row.
    pub fn add(&mut self, record: &RowRecord) {
        self.rows += 1;
        *match record.status {
            RowStatus::Train => &mut self.train,
            RowStatus::Validation => &mut self.validation,
            RowStatus::NotSelected => &mut self.not_selected,
            RowStatus::TooLong => &mut self.too_long,
            RowStatus::NoTrainedToken => &mut self.untrained,
            RowStatus::EqualHalves => &mut self.equal_halves,
            RowStatus::Broken => &mut self.broken,
            RowStatus::Duplicate => &mut self.exact_duplicates,
            RowStatus::NearDuplicate => &mut self.near_duplicates,
            RowStatus::NearHeldOut => &mut self.near_held_out,
        } += 1;
        if record.index.is_some() {
            self.truncated += u64::from(record.is_truncated());
            self.duplicates += u64::from(record.is_duplicate);
            self.tokens += record.len() as u64;
            self.trained_tokens += record.trained_tokens() as u64;
        }
        let tokens = record.longest;
        let is_read = record.status != RowStatus::NotSelected;
        if is_read
            && self
                .longest
                .as_ref()
                .is_none_or(|longest| tokens > longest.tokens)
        {
            self.longest = Some(Longest {
                tokens,
                file: record.file.to_owned(),
                row: record.row,
            });
        }
        if let (Some(reason), None) = (record.reason, &self.first_broken) {
            self.first_broken = Some(format!(
                "`{}`, {reason}",
                visible(&record.file.display().to_string())
            ));
        }
    }

    fn and(self, other: &Self) -> Self {
        let longer = other.longest.clone().filter(|theirs| {
            self.longest
                .as_ref()
                .is_none_or(|ours| theirs.tokens > ours.tokens)
        });
        Self {
            rows: self.rows + other.rows,
            train: self.train + other.train,
            validation: self.validation + other.validation,
            not_selected: self.not_selected + other.not_selected,
            too_long: self.too_long + other.too_long,
            untrained: self.untrained + other.untrained,
            equal_halves: self.equal_halves + other.equal_halves,
            broken: self.broken + other.broken,
            exact_duplicates: self.exact_duplicates + other.exact_duplicates,
            near_duplicates: self.near_duplicates + other.near_duplicates,
            near_held_out: self.near_held_out + other.near_held_out,
            truncated: self.truncated + other.truncated,
            duplicates: self.duplicates + other.duplicates,
            tokens: self.tokens + other.tokens,
            trained_tokens: self.trained_tokens + other.trained_tokens,
            longest: longer.or(self.longest),
            first_broken: self.first_broken.or_else(|| other.first_broken.clone()),
        }
    }
}
