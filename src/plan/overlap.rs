//! Validation rows that are also trained on. Their loss says nothing about rows that the model has
//! not seen.
//!
//! Rows are compared by a hash of their tokens, as they are used: 8 bytes per training row,
//! whatever its length. Labels are not compared, because a row that is scored on more of its tokens
//! than it was trained on has still been seen.

use std::path::PathBuf;

use rayon::prelude::*;

use super::PlanError;
use super::resolve::Plan;
use crate::data::{Corpus, Divided, visible};
use crate::report::Reporter;

/// The most files that notes name one by one.
const NAMED: usize = 5;

/// Hashes of the tokens of the training rows.
#[derive(Debug)]
pub(super) struct TrainedRows(Vec<u64>);

/// The validation rows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overlap {
    /// The index of its source.
    pub source: usize,
    /// The file.
    pub file: PathBuf,
    /// The number of validation rows.
    pub rows: u64,
    /// How many of them are also trained on.
    pub trained: u64,
}

impl TrainedRows {
    /// Hashes the training rows of divided data.
    pub fn of(data: &Divided) -> Self {
        Self::of_rows(&data.corpus, &data.split.training)
    }

    fn of_rows(corpus: &Corpus, rows: &[u32]) -> Self {
        let mut hashes: Vec<u64> = rows
            .par_iter()
            .map(|row| corpus.row(*row as usize).text())
            .collect();
        hashes.par_sort_unstable();
        hashes.dedup();
        Self(hashes)
    }

    /// Returns the validation rows of a corpus that are also trained on, file by file.
    pub fn among(&self, corpus: &Corpus, rows: &[u32]) -> Vec<Overlap> {
        let is_trained = |row: &u32| {
            self.0
                .binary_search(&corpus.row(*row as usize).text())
                .is_ok()
        };
        let trained: Vec<bool> = rows.par_iter().map(is_trained).collect();
        let mut found: Vec<Overlap> = Vec::new();
        for (row, is_trained) in rows.iter().zip(trained) {
            let (source, file) = (corpus.source(*row as usize), corpus.file(*row as usize));
            // Rows of a file stand together.
            if found
                .last()
                .is_none_or(|last| (last.source, &*last.file) != (source, file))
            {
                found.push(Overlap {
                    source,
                    file: file.to_owned(),
                    rows: 0,
                    trained: 0,
                });
            }
            let last = found.last_mut().expect("there is one now");
            last.rows += 1;
            last.trained += u64::from(is_trained);
        }
        found
    }
}

/// Returns the number of rows of a source that are also trained on.
pub(super) fn of_source(overlaps: &[Overlap], source: usize) -> u64 {
    overlaps
        .iter()
        .filter(|overlap| overlap.source == source)
        .map(|overlap| overlap.trained)
        .sum()
}

/// Returns notes for the user; `name` returns the name of a source.
pub(super) fn notes(overlaps: &[Overlap], name: impl Fn(usize) -> String) -> Vec<String> {
    let trained: Vec<&Overlap> = overlaps
        .iter()
        .filter(|overlap| overlap.trained > 0)
        .collect();
    let said = |overlap: &&Overlap| {
        let Overlap {
            source,
            file,
            rows,
            trained,
        } = overlap;
        let (name, file) = (name(*source), file.display().to_string());
        let are = if *trained == 1 { "is" } else { "are" };
        let what = format!(
            "{trained} of {rows} rows of `{}` {are} trained on too",
            visible(&file)
        );
        format!("{name}: {what}: their loss says nothing of new rows")
    };
    let rest = trained
        .iter()
        .skip(NAMED)
        .map(|overlap| overlap.trained)
        .sum::<u64>();
    let others = (rest > 0).then(|| {
        format!(
            "{} more files hold {rest} rows that are trained on too",
            trained.len() - NAMED
        )
    });
    trained.iter().take(NAMED).map(said).chain(others).collect()
}

impl Plan {
    /// Returns notes for the user on how many rows of validation files are also trained on, and how
    /// many rows are left out as duplicates. If neither is possible, nothing is read.
    ///
    /// Rows cannot be read, or the recipe refuses near-duplicates of validation rows and there are
    /// some.
    /// # Errors
    /// Rows cannot be read, or the recipe refuses near-duplicates of what is only scored and there
    /// are some.
    pub fn notes_of_likeness(&self, report: Reporter) -> Result<Vec<String>, PlanError> {
        if self.validation_sources.is_empty() && !self.alike.leaves_out() {
            return Ok(Vec::new());
        }
        let data = self.open_rows(report)?;
        let straddling = self.check_straddling(data.straddling.as_ref())?;
        let [_, of_files] = &data.overlaps;
        let of_files = notes(of_files, |source| {
            self.source_name(self.sources.len() + source).0
        });
        Ok(self
            .notes_of_alike(&data.ledger().total())
            .into_iter()
            .chain(of_files)
            .chain(straddling)
            .collect())
    }
}

/// Returns the rows of both kinds that are scored and trained on: held-out rows, if two sources
/// read one row for different labels, and rows of validation sets.
pub(super) fn find(datasets: &Divided, evaluation: &Divided) -> [Vec<Overlap>; 2] {
    if datasets.split.validation.is_empty() && evaluation.corpus.is_empty() {
        return [Vec::new(), Vec::new()];
    }
    let trained = TrainedRows::of(datasets);
    [datasets, evaluation].map(|data| trained.among(&data.corpus, &data.split.validation))
}
