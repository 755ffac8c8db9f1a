//! A corpus divided into training and validation rows, with the status of each row that was read.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::indexed_rows::Corpus;
use super::row_counts::{Ledger, RowCounts};
use super::row_status::{Duplicate, RowRecord, RowStatus};
use super::shuffle::Split;
use super::token_cache::CachedRow;

/// Number of rows that one thread counts at a time.
const PIECE_ROWS: u64 = 1 << 14;

/// A corpus whose kept rows are divided into training and validation rows.
#[derive(Debug)]
pub struct Divided {
    /// The rows.
    pub corpus: Corpus,
    /// The division of the kept rows.
    pub split: Split,
    /// Whether each row within the limits equals an earlier one.
    pub duplicates: Vec<bool>,
    /// Rows that are left out as duplicates, by index.
    pub left_out: BTreeMap<u32, Duplicate>,
}

impl Divided {
    /// Returns a row by its number in the order in which rows were read, from 0.
    ///
    /// # Panics
    /// There is no such row.
    pub fn record(&self, number: u64) -> RowRecord<'_> {
        let (part, row) = self.corpus.locate(number);
        let blank = RowRecord {
            source: part.source,
            file: &part.file,
            row: row as u64,
            status: RowStatus::Broken,
            tokens: None,
            whole_tokens: 0,
            longest: 0,
            is_duplicate: false,
            reason: None,
            duplicate_of: None,
            index: None,
        };
        let whole = match part.entry(row) {
            None => {
                return RowRecord {
                    status: RowStatus::NotSelected,
                    ..blank
                };
            }
            Some(CachedRow::Broken(reason)) => {
                return RowRecord {
                    reason: Some(reason),
                    ..blank
                };
            }
            Some(CachedRow::Row(whole)) => whole,
        };
        let read = RowRecord {
            whole_tokens: whole.len(),
            longest: whole.longest(),
            ..blank
        };
        match self.corpus.admit(whole) {
            Err(status) => {
                let tokens = if status == RowStatus::TooLong {
                    whole
                } else {
                    self.corpus.cut(whole)
                };
                RowRecord {
                    status,
                    tokens: Some(tokens),
                    ..read
                }
            }
            Ok(kept) => {
                let index = self
                    .corpus
                    .index(number)
                    .expect("what is admitted was kept");
                if let Some(Duplicate { status, of }) = self.left_out.get(&index).copied() {
                    return RowRecord {
                        status,
                        tokens: Some(kept),
                        duplicate_of: Some(of),
                        ..read
                    };
                }
                let is_held_out = self.split.validation.binary_search(&index).is_ok();
                let status = if is_held_out {
                    RowStatus::Validation
                } else {
                    RowStatus::Train
                };
                RowRecord {
                    status,
                    tokens: Some(kept),
                    is_duplicate: self.duplicates[index as usize],
                    index: Some(index),
                    ..read
                }
            }
        }
    }

    /// Returns every row that was read, in order.
    pub fn records(&self) -> impl Iterator<Item = RowRecord<'_>> {
        (0..self.corpus.rows_read()).map(|number| self.record(number))
    }

    /// Counts the rows of each source; `sources` is the number of sources.
    pub fn ledger(&self, sources: usize) -> Ledger {
        let none = || Ledger {
            sources: vec![RowCounts::default(); sources],
        };
        let counted = |piece: u64| {
            let (mut ledger, first) = (none(), piece * PIECE_ROWS);
            for number in first..self.corpus.rows_read().min(first + PIECE_ROWS) {
                let record = self.record(number);
                ledger.sources[record.source].add(&record);
            }
            ledger
        };
        let pieces: Vec<Ledger> = (0..self.corpus.rows_read().div_ceil(PIECE_ROWS))
            .into_par_iter()
            .map(counted)
            .collect();
        pieces.iter().fold(none(), Ledger::and)
    }
}

/// Marks rows that equal an earlier one, by hashes of their contents.
pub fn duplicates(contents: &[u64]) -> Vec<bool> {
    let mut order: Vec<u32> = (0..).take(contents.len()).collect();
    order.par_sort_unstable_by_key(|row| (contents[*row as usize], *row));
    let mut marks = vec![false; contents.len()];
    for pair in order.windows(2) {
        marks[pair[1] as usize] = contents[pair[0] as usize] == contents[pair[1] as usize];
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_rows_is_no_duplicate() {
        assert_eq!(
            duplicates(&[7, 3, 7, 7, 3, 1]),
            [false, false, true, true, true, false]
        );
        assert_eq!(duplicates(&[]), [false; 0]);
    }
}
