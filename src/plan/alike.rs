//! Duplicate and near-duplicate rows, and the rows that are held out. Within the limits, first
//! equal and near rows are left out in favor of the first of them. Then some of the rest are held
//! out. Last, training rows that are nearly the same as a validation row are left out.

use std::collections::BTreeMap;

use super::PlanError;
use super::deduplicate::Alike;
use super::overlap::TrainedRows;
use super::resolve::Plan;
use crate::data::{
    Corpus, Divided, Duplicate, RowCounts, RowStatus, Split, duplicates, near_duplicates,
    near_duplicates_of, split, visible,
};
use crate::report::Reporter;
use crate::terms::{Deduplicate, NearDuplicates};

/// Training rows that are near-duplicates of validation rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Straddling {
    pub rows: usize,
    /// The first of them and the row that it resembles, in words.
    pub first: [String; 2],
}

/// The rows of `datasets` and the rows that they are compared with.
struct Compare<'a> {
    corpus: &'a Corpus,
    evaluation: &'a Corpus,
    threshold: f64,
}

impl Plan {
    /// Divides the rows of `datasets` into training rows, validation rows, and rows that are left
    /// out because they are like another one. `contents` are those of `corpus`.
    pub(super) fn divide(
        &self,
        corpus: Corpus,
        contents: &[u64],
        evaluation: &Corpus,
        report: Reporter,
    ) -> Divided {
        let Alike {
            deduplicate,
            threshold,
            held_out,
        } = self.alike;
        let compare = Compare {
            corpus: &corpus,
            evaluation,
            threshold,
        };
        let mut left_out = if deduplicate == Deduplicate::None {
            BTreeMap::new()
        } else {
            compare.equal(contents)
        };
        if deduplicate == Deduplicate::Near {
            compare.near(&mut left_out, report);
        }
        let rest: Vec<u32> = (0..)
            .take(corpus.len())
            .filter(|row| !left_out.contains_key(row))
            .collect();
        let of_rest: Vec<u64> = rest.iter().map(|row| contents[*row as usize]).collect();
        let mut split = split(&of_rest, self.holdout);
        for row in split.training.iter_mut().chain(&mut split.validation) {
            *row = rest[*row as usize];
        }
        if held_out == NearDuplicates::Drop {
            let found = compare.near_held_out(&split);
            split.training.retain(|row| !found.contains_key(row));
            left_out.extend(found);
        }
        let duplicates = duplicates(contents);
        Divided {
            corpus,
            split,
            duplicates,
            left_out,
        }
    }

    /// Returns training rows that are nearly the same as a validation row; none if those are left
    /// out.
    pub(super) fn straddling(&self, data: &Divided, evaluation: &Corpus) -> Option<Straddling> {
        if self.alike.held_out == NearDuplicates::Drop {
            return None;
        }
        let compare = Compare {
            corpus: &data.corpus,
            evaluation,
            threshold: self.alike.threshold,
        };
        let found = compare.near_held_out(&data.split);
        let (row, of) = found.first_key_value()?;
        let first = [
            compare.place(data.corpus.number(*row as usize)),
            compare.place(of.of),
        ];
        Some(Straddling {
            rows: found.len(),
            first,
        })
    }

    /// Returns the training rows, without those that are held out.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub(super) fn trained_rows(&self, report: Reporter) -> Result<TrainedRows, PlanError> {
        let compared = if self.alike.held_out == NearDuplicates::Drop {
            &self.validation_sources[..]
        } else {
            &[]
        };
        let corpus = self.corpus(&self.sources, report)?;
        let contents = corpus.contents();
        let evaluation = self.corpus(compared, report)?;
        Ok(TrainedRows::of(&self.divide(
            corpus,
            &contents,
            &evaluation,
            report,
        )))
    }

    /// Reports training rows that are nearly the same as validation rows, or refuses them, as the
    /// recipe asks.
    pub(super) fn check_straddling(
        &self,
        straddling: Option<&Straddling>,
    ) -> Result<Option<String>, PlanError> {
        let Some(Straddling {
            rows,
            first: [row, of],
        }) = straddling
        else {
            return Ok(None);
        };
        let are = if *rows == 1 {
            "row to train on is a near-duplicate"
        } else {
            "rows to train on are near-duplicates"
        };
        let message =
            format!("{rows} {are} of rows that are only scored, the first: {row}, of {of}");
        if self.alike.held_out == NearDuplicates::Refuse {
            let hint = "set `near_duplicates: drop` to leave them out of training, or take them \
                out of the data"
                .to_owned();
            return Err(PlanError::Rows {
                message: format!("evaluation.near_duplicates: {message}"),
                hint,
            });
        }
        Ok(Some(format!(
            "{message}; `evaluation.near_duplicates` can leave them out"
        )))
    }

    /// Returns notes for the user on rows that are left out as duplicates.
    pub(super) fn notes_of_alike(&self, total: &RowCounts) -> Vec<String> {
        let (rows, threshold) = (total.rows, self.alike.threshold);
        let note = |count: u64, how: String| {
            (count > 0).then(|| format!("{count} of {rows} rows are left out: {how}"))
        };
        let near = |of: &str| {
            format!("nearly the same as {of} (Jaccard similarity of at least {threshold})")
        };
        [
            note(
                total.exact_duplicates,
                "an earlier row has the same tokens".to_owned(),
            ),
            note(total.near_duplicates, near("an earlier row")),
            note(total.near_held_out, near("a row that is only scored")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Compare<'_> {
    /// Returns rows with the same content as an earlier one.
    fn equal(&self, contents: &[u64]) -> BTreeMap<u32, Duplicate> {
        let mut order: Vec<u32> = (0..).take(contents.len()).collect();
        order.sort_unstable_by_key(|row| (contents[*row as usize], *row));
        let same =
            order.chunk_by(|one, other| contents[*one as usize] == contents[*other as usize]);
        let later = same.flat_map(|rows| {
            let of = self.corpus.number(rows[0] as usize);
            rows[1..].iter().map(move |row| {
                (
                    *row,
                    Duplicate {
                        status: RowStatus::Duplicate,
                        of,
                    },
                )
            })
        });
        later.collect()
    }

    /// Adds rows that are nearly the same as an earlier one that is not left out.
    fn near(&self, left_out: &mut BTreeMap<u32, Duplicate>, report: Reporter) {
        let rest: Vec<u32> = (0..)
            .take(self.corpus.len())
            .filter(|row| !left_out.contains_key(row))
            .collect();
        let ids = |place: usize| self.corpus.row(rest[place] as usize).ids();
        let pairs = near_duplicates(rest.len(), ids, self.threshold, report);
        let number = |place: u32| self.corpus.number(rest[place as usize] as usize);
        left_out.extend(pairs.into_iter().map(|pair| {
            (
                rest[pair.row as usize],
                Duplicate {
                    status: RowStatus::NearDuplicate,
                    of: number(pair.of),
                },
            )
        }));
    }

    /// Returns training rows that are nearly the same as a row that is held out or of a validation
    /// set.
    fn near_held_out(
        &self,
        Split {
            training,
            validation,
        }: &Split,
    ) -> BTreeMap<u32, Duplicate> {
        let (held_out, scored) = (validation.len(), validation.len() + self.evaluation.len());
        if scored == 0 {
            return BTreeMap::new();
        }
        let ids = |place: usize| match place {
            of_datasets if of_datasets < held_out => {
                self.corpus.row(validation[of_datasets] as usize).ids()
            }
            of_set if of_set < scored => self.evaluation.row(of_set - held_out).ids(),
            trained => self.corpus.row(training[trained - scored] as usize).ids(),
        };
        let pairs = near_duplicates_of(scored, scored + training.len(), ids, self.threshold);
        let number = |place: usize| match place.checked_sub(held_out) {
            None => self.corpus.number(validation[place] as usize),
            Some(of_set) => self.corpus.rows_read() + self.evaluation.number(of_set),
        };
        let duplicate = |of: u32| Duplicate {
            status: RowStatus::NearHeldOut,
            of: number(of as usize),
        };
        pairs
            .into_iter()
            .map(|pair| (training[pair.row as usize - scored], duplicate(pair.of)))
            .collect()
    }

    /// Describes a row by its number among all.
    fn place(&self, number: u64) -> String {
        let (row, file) = match number.checked_sub(self.corpus.rows_read()) {
            None => self.corpus.place(number),
            Some(number) => self.evaluation.place(number),
        };
        format!("row {row} of `{}`", visible(&file.display().to_string()))
    }
}
