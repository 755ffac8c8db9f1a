//! Checks of the rows of a run: it reports rows that were left out, and refuses data that would
//! train something other than what was meant.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::PlanError;
use super::overlap;
use super::resolve::Plan;
use super::rows::RunData;
use super::training::Training;
use crate::data::{Corpus, Divided, Ledger, Packing, RowCounts};
use crate::files::listed;
use crate::objective::Objective;
use crate::report::{Event, Reporter};
use crate::terms::Truncation;

/// The most rows of all epochs that are packed to count the steps of a run: this takes some
/// minutes.
const MOST_PACKED: usize = 1 << 28;

/// The sources of `datasets` or of `evaluation.datasets`, with the counts of their rows.
struct Sources<'a> {
    first: usize,
    tallies: &'a [RowCounts],
    total: RowCounts,
}

impl Plan {
    /// Reports what was left out and what looks wrong, and refuses data that would make the run
    /// another than what was meant.
    ///
    /// # Errors
    /// Rows are longer than allowed, too many are left out, a source trains nothing, or nothing is
    /// left to train on.
    pub fn judge(&self, data: &RunData, report: Reporter) -> Result<(), PlanError> {
        let (datasets, evaluation) = data.ledger().sources.split_at(self.sources.len());
        self.judge_sources(&Sources::new(0, datasets), report)?;
        data.datasets.split.check()?;
        self.check_straddling(data.straddling.as_ref())?
            .into_iter()
            .for_each(|note| report(Event::Note(note)));
        if let Some(note) = self.note_of_labels(data) {
            report(Event::Note(note));
        }
        data.check_mixing()?;
        data.notes_of_mixing()
            .into_iter()
            .for_each(|note| report(Event::Note(note)));
        self.check_epochs(data.training().per_epoch())?;
        self.judge_sources(&Sources::new(self.sources.len(), evaluation), report)?;
        let [held_out, of_files] = &data.overlaps;
        let of_held_out = overlap::notes(held_out, |source| {
            format!("{}, held out", self.source_name(source).0)
        });
        let of_files = overlap::notes(of_files, |source| {
            self.source_name(self.sources.len() + source).0
        });
        of_held_out
            .into_iter()
            .chain(of_files)
            .for_each(|note| report(Event::Note(note)));
        self.judge_tokens(data, report)
    }

    fn judge_sources(&self, sources: &Sources, report: Reporter) -> Result<(), PlanError> {
        let total = &sources.total;
        let key = if sources.first > 0 {
            "evaluation.datasets: "
        } else {
            ""
        };
        self.notes_of(total)
            .into_iter()
            .for_each(|note| report(Event::Note(format!("{key}{note}"))));
        self.check_length(total)?;
        // Where no source has a row to keep, that they are left out says more.
        if total.kept() > 0 {
            self.check_each(sources)?;
        }
        self.check_share(total)?;
        // Without any, validation would be left out in silence; without any to train on there are
        // better words.
        if sources.first > 0 {
            self.check_each(sources)
        } else {
            Ok(())
        }
    }

    fn notes_of(&self, total: &RowCounts) -> Vec<String> {
        let (rows, limit) = (total.selected(), self.limits.sequence_len);
        let longest = total.longest.as_ref();
        let too_long = longest.filter(|longest| longest.tokens > limit);
        let long = too_long.map(|longest| {
            let (count, status) = if total.truncated > 0 {
                (total.truncated, "cut")
            } else {
                (total.too_long, "left out")
            };
            format!(
                "{count} of {rows} rows are {status}: they are longer than \
                `training.sequence_len`, {limit}; the longest is {longest}"
            )
        });
        let untrained = (total.untrained > 0).then(|| {
            format!(
                "{} of {rows} rows have no token to train and are left out",
                total.untrained
            )
        });
        let equal = (total.equal_halves > 0).then(|| {
            format!(
                "{} of {rows} pairs are left out: their chosen and rejected sequences are the same",
                total.equal_halves
            )
        });
        let broken = total.first_broken.as_ref().map(|first| {
            format!(
                "{} of {rows} rows are broken and left out; the first: {first}",
                total.broken
            )
        });
        [long, untrained, equal, broken]
            .into_iter()
            .flatten()
            .chain(self.notes_of_alike(total))
            .collect()
    }

    /// Checks the number of epochs. The schedule needs the steps of every epoch, and shuffled rows
    /// are packed again in each.
    fn check_epochs(&self, rows: usize) -> Result<(), PlanError> {
        let Training {
            num_epochs,
            max_steps,
            packing,
            shuffle,
            ..
        } = &self.training;
        if *packing == Packing::Off
            || !(*shuffle || self.mixing.is_some())
            || max_steps.is_some()
            || num_epochs.saturating_mul(rows) <= MOST_PACKED
        {
            return Ok(());
        }
        Err(PlanError::Rows {
            message: format!(
                "training.num_epochs: {num_epochs} epochs of {rows} rows, at most {MOST_PACKED} \
                rows can be packed beforehand"
            ),
            hint: "set `training.max_steps`, which needs no counting of steps".to_owned(),
        })
    }

    fn check_length(&self, total: &RowCounts) -> Result<(), PlanError> {
        match (self.limits.truncation, &total.longest) {
            (Truncation::Error, Some(longest)) if total.too_long > 0 => Err(PlanError::Rows {
                message: format!(
                    "{} of {} rows are longer than sequence_len: {}, the longest is {longest}",
                    total.too_long,
                    total.selected(),
                    self.limits.sequence_len
                ),
                hint: format!(
                    "raise `training.sequence_len` to {}, or set `training.truncation` to `drop` \
                    or `truncate`",
                    longest.tokens
                ),
            }),
            _ => Ok(()),
        }
    }

    fn check_each(&self, sources: &Sources) -> Result<(), PlanError> {
        let Some(index) = sources.tallies.iter().position(|tally| tally.kept() == 0) else {
            return Ok(());
        };
        let (key, path) = self.source_name(sources.first + index);
        let tally = &sources.tallies[index];
        Err(PlanError::Rows {
            message: format!(
                "{key}: `{path}` has no token to train in {} rows{}",
                tally.selected(),
                reasons(tally)
            ),
            hint: "see its rows with `rankine preview`, and correct its `format`, `columns` or \
                `train_on`, or take it out"
                .to_owned(),
        })
    }

    fn check_share(&self, total: &RowCounts) -> Result<(), PlanError> {
        if total.unusable_share() <= self.max_dropped {
            return Ok(());
        }
        let of_length = "raise `training.sequence_len`, set `training.truncation: truncate`, or \
            raise `training.max_dropped`";
        let of_rows = "see them with `rankine preview --ledger FILE.parquet`; correct the rows, or \
            raise `training.max_dropped`";
        let (dropped, rows, limit) = (total.unusable(), total.selected(), self.max_dropped);
        let first = total
            .first_broken
            .as_ref()
            .map_or_else(String::new, |first| {
                format!("; the first broken one: {first}")
            });
        Err(PlanError::Rows {
            message: format!(
                "{dropped} of {rows} rows are left out{}, more than `training.max_dropped`, \
                {limit}{first}",
                reasons(total)
            ),
            hint: if total.broken > 0 || total.too_long == 0 {
                of_rows
            } else {
                of_length
            }
            .to_owned(),
        })
    }

    /// Reports rows that are left out of those that are only scored. It refuses a set without rows,
    /// or tokens that the base lacks.
    pub(super) fn judge_scored(
        &self,
        name: &str,
        data: &Divided,
        report: Reporter,
    ) -> Result<(), PlanError> {
        let total = data.ledger(1).total();
        self.notes_of(&total)
            .into_iter()
            .for_each(|note| report(Event::Note(format!("{name}: {note}"))));
        if total.kept() == 0 {
            let message = format!(
                "{name}: there is no token to score in {} rows{}",
                total.rows,
                reasons(&total)
            );
            return Err(PlanError::Rows {
                message,
                hint: "correct the rows, or name another file".to_owned(),
            });
        }
        self.check_vocabulary(Census::of(&data.corpus, &[], &[]).highest)
    }

    fn check_vocabulary(&self, highest: Option<u32>) -> Result<(), PlanError> {
        let vocabulary = self.model.spec.vocabulary;
        match highest.filter(|id| *id as usize >= vocabulary) {
            None => Ok(()),
            Some(id) => Err(PlanError::Rows {
                message: format!(
                    "the tokenizer made token id {id}, the base's embedding has ids \
                    below {vocabulary}"
                ),
                hint: "use the tokenizer that came with the base, or a base whose embedding was \
                    resized for it"
                    .to_owned(),
            }),
        }
    }

    /// Checks the tokens. A tokenizer may know more tokens than the embedding has rows, and a model
    /// that never sees a turn end in training does not end one afterwards.
    fn judge_tokens(&self, data: &RunData, report: Reporter) -> Result<(), PlanError> {
        let new: Vec<u32> = self.new_tokens().map(|(_, id)| *id).collect();
        let of_training = Census::of(&data.datasets.corpus, data.end_ids(), &new);
        let of_evaluation = Census::of(&data.evaluation.corpus, data.end_ids(), &[]);
        self.check_vocabulary(of_training.highest.max(of_evaluation.highest))?;
        let has_ends = |source: &usize| of_training.ends.iter().any(|(with, _)| with == source);
        // Scores and vectors generate nothing that has to end.
        let generates = !matches!(
            self.objective(),
            Objective::Reward(_) | Objective::Classify(_) | Objective::Contrastive(_)
        );
        for source in (0..self.sources.len()).filter(|source| generates && !has_ends(source)) {
            let (key, what) = (
                self.source_name(source).0,
                "no row trains a token that ends a turn or a document",
            );
            report(Event::Note(format!(
                "{key}: {what}: the model will not learn to stop from it"
            )));
        }
        let unused: Vec<String> = self
            .new_tokens()
            .filter(|(_, id)| !of_training.found.contains(id))
            .map(|(token, _)| format!("`{token}`"))
            .collect();
        if !unused.is_empty() {
            let names = listed(&unused).join(", ");
            report(Event::Note(format!(
                "tokens.add: {names} do not occur in the rows: what their rows begin as is all \
                that they learn as input"
            )));
        }
        let ends = of_training.ends.into_iter().map(|(_, id)| id).collect();
        self.notes_of_embeddings(&ends)?
            .into_iter()
            .for_each(|note| report(Event::Note(note)));
        Ok(())
    }
}

impl<'a> Sources<'a> {
    fn new(first: usize, tallies: &'a [RowCounts]) -> Self {
        let total = Ledger {
            sources: tallies.to_vec(),
        }
        .total();
        Self {
            first,
            tallies,
            total,
        }
    }
}

/// Returns why rows are left out, in parentheses.
fn reasons(tally: &RowCounts) -> String {
    let broken = if tally.broken > 0 {
        format!(", {} broken", tally.broken)
    } else {
        String::new()
    };
    let alike = if tally.alike() > 0 {
        format!(", {} like others", tally.alike())
    } else {
        String::new()
    };
    let equal = if tally.equal_halves > 0 {
        format!(", {} with equal halves", tally.equal_halves)
    } else {
        String::new()
    };
    format!(
        " ({} too long, {} without a trained token{equal}{broken}{alike})",
        tally.too_long, tally.untrained
    )
}

/// Statistics of the kept rows.
#[derive(Debug, Default)]
struct Census {
    /// The highest token id.
    highest: Option<u32>,
    /// Trained tokens that end a turn or a document, each with a source that has it.
    ends: BTreeSet<(usize, u32)>,
    /// Which of the tokens in question occur.
    found: BTreeSet<u32>,
}

impl Census {
    fn of(corpus: &Corpus, end_ids: &[u32], asked: &[u32]) -> Self {
        let count = |mut census: Self, index: usize| {
            let (row, source) = (corpus.row(index), corpus.source(index));
            census.highest = census.highest.max(row.highest_id());
            for id in end_ids {
                if !census.ends.contains(&(source, *id)) && row.trains(*id) {
                    census.ends.insert((source, *id));
                }
            }
            for id in asked {
                if !census.found.contains(id) && row.has(*id) {
                    census.found.insert(*id);
                }
            }
            census
        };
        (0..corpus.len())
            .into_par_iter()
            .fold(Self::default, count)
            .reduce(Self::default, Self::and)
    }

    fn and(mut self, other: Self) -> Self {
        self.ends.extend(other.ends);
        self.found.extend(other.found);
        Self {
            highest: self.highest.max(other.highest),
            ..self
        }
    }
}
