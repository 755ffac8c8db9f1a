//! A selection of rows of a corpus, batched by place.

use std::path::Path;

use rayon::prelude::*;

use super::mixture::{Draw, Mixture};
use super::pack::{Packing, Packs, Visit};
use super::row_batch::{Batch, Scoring};
use super::top_rows::TopRows;
use crate::data::corpus::indexed_rows::Corpus;
use crate::data::corpus::token_slice::TokenSlice;
use crate::data::example::token_row::{RatedRow, TokenRow};
use crate::terms::{Pooling, RowForm, TopTokens};

/// A selection of rows of a corpus, in an order of its own.
#[derive(Debug)]
pub struct Rows<'a> {
    corpus: &'a Corpus,
    indexes: Vec<u32>,
    mixture: Option<Mixture>,
    preferences: Preferences,
    /// Log-probabilities of each row's completions under the reference: of the chosen and the
    /// rejected one, or of its own and that of another row; none without a reference.
    reference: &'a [[f64; 2]],
    /// The factor of the loss of each source's rows; 1 for sources that have none.
    loss_weights: &'a [f32],
    /// The most likely tokens of each row's targets under a teacher, where they are known.
    top: Option<&'a TopRows>,
}

/// How rows of preferences are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preferences {
    /// Whether the prompts of chosen sequences are targets too.
    pub reads_prompts: bool,
    /// The number of consecutive rows whose completions are exchanged; 0 for none.
    pub group: usize,
    /// How texts become vectors.
    pub pooling: Pooling,
    /// How rows are scored, where a score head is read.
    pub scoring: Option<Scoring>,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            reads_prompts: false,
            group: 0,
            pooling: Pooling::Mean,
            scoring: None,
        }
    }
}

impl<'a> Rows<'a> {
    /// Selects the rows of `corpus` with these indexes.
    pub fn new(corpus: &'a Corpus, indexes: Vec<u32>) -> Self {
        Self {
            corpus,
            indexes,
            mixture: None,
            preferences: Preferences::default(),
            reference: &[],
            loss_weights: &[],
            top: None,
        }
    }

    /// Sets how rows of preferences are read.
    #[must_use]
    pub fn reading(self, preferences: Preferences) -> Self {
        Self {
            preferences,
            ..self
        }
    }

    /// Gives each row the log-probabilities of its completions under the reference.
    #[must_use]
    pub fn with_reference(self, reference: &'a [[f64; 2]]) -> Self {
        Self { reference, ..self }
    }

    /// Gives the rows of each source a factor of their loss.
    #[must_use]
    pub fn with_loss_weights(self, loss_weights: &'a [f32]) -> Self {
        Self {
            loss_weights,
            ..self
        }
    }

    /// Returns the factor of the loss of the row at a place.
    pub fn loss_weight(&self, place: u32) -> f32 {
        let source = self.corpus.source(self.indexes[place as usize] as usize);
        let of_source = self.loss_weights.get(source).copied().unwrap_or(1.0);
        of_source * self.row(place).form().weight()
    }

    /// Gives each row the most likely tokens of its targets under a teacher.
    #[must_use]
    pub fn with_top(self, top: &'a TopRows) -> Self {
        Self {
            top: Some(top).filter(|top| top.each() > 0),
            ..self
        }
    }

    /// Lets each epoch draw the rows of a mixture, instead of each row once.
    #[must_use]
    pub fn mixed(self, mixture: Mixture) -> Self {
        Self {
            mixture: Some(mixture),
            ..self
        }
    }

    /// Returns the mixture that epochs draw from, if there is one.
    pub fn mixture(&self) -> Option<&Mixture> {
        self.mixture.as_ref()
    }

    /// Returns the number of rows that an epoch visits, repeated visits included.
    pub fn per_epoch(&self) -> usize {
        self.mixture.as_ref().map_or(self.len(), |mixture| {
            usize::try_from(mixture.draws_per_epoch()).unwrap_or(usize::MAX)
        })
    }

    /// Returns the packs of an epoch, counted from 0: of all rows, or of the draws of a mixture.
    /// Without a seed they are not shuffled.
    pub fn epoch(&self, packing: Packing, seed: Option<u64>, epoch: u64) -> Packs {
        let visit = seed.map_or(Visit::InOrder, |seed| Visit::Shuffled { seed, epoch });
        let Some(mixture) = &self.mixture else {
            return self.packs(packing, visit);
        };
        let draws = mixture.draws(epoch, seed);
        let packs = match packing {
            Packing::Off => Packs::single(draws.len(), visit),
            Packing::BestFit { tokens } => {
                let lengths = draws.par_iter().map(|draw| self.row_len(draw.place));
                Packs::best_fit(&lengths.collect::<Vec<_>>(), tokens, visit)
            }
        };
        packs.of_draws(&draws)
    }

    fn row_len(&self, place: u32) -> u32 {
        self.corpus.row(self.indexes[place as usize] as usize).len() as u32
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// Returns all rows in packs, by their places.
    pub fn packs(&self, packing: Packing, visit: Visit) -> Packs {
        let length = |index: &u32| self.corpus.row(*index as usize).len() as u32;
        match packing {
            Packing::Off => Packs::single(self.len(), visit),
            Packing::BestFit { tokens } => Packs::best_fit(
                &self.indexes.par_iter().map(length).collect::<Vec<_>>(),
                tokens,
                visit,
            ),
        }
    }

    /// Returns all rows in batches of `size` packs.
    pub fn batches(&self, size: usize, packing: Packing) -> impl Iterator<Item = Batch> {
        let packs = self.packs(packing, Visit::InOrder);
        (0..packs.len())
            .step_by(size)
            .map(move |first| self.batch(packs.rows(first..packs.len().min(first + size))))
    }

    /// Returns the number of tokens of the row at a place, and how many of them are targets.
    pub fn counts(&self, place: u32) -> (usize, usize) {
        let row = self.row(place);
        if row.form() == RowForm::Texts {
            let pooled = row.texts().into_iter();
            let pooled = pooled.map(|ids| self.preferences.pooling.places(ids.len()).len());
            return (row.len(), pooled.sum());
        }
        if let Some(scoring) = self.preferences.scoring {
            let scored = match row.form() {
                RowForm::Tagged { .. } => row.trained_tokens(),
                _ if scoring.pooling == Pooling::Mean => row.len(),
                RowForm::Pair { .. } => 2,
                _ => 1,
            };
            return (row.len(), scored);
        }
        let of_prompt = if self.preferences.reads_prompts {
            row.first_len()
                .saturating_sub(1 + row.first_trained_tokens())
        } else {
            0
        };
        (row.len(), row.trained_tokens() + of_prompt)
    }

    /// Returns the number of tokens of the longest sequence of the row at a place.
    pub fn longest(&self, place: u32) -> usize {
        self.row(place).longest()
    }

    /// Returns the data file of the row at a place.
    pub fn file(&self, place: u32) -> &'a Path {
        self.corpus.file(self.indexes[place as usize] as usize)
    }

    /// Returns the number of the row at a place in its data file, from 0.
    pub fn position(&self, place: u32) -> u64 {
        self.corpus.position(self.indexes[place as usize] as usize)
    }

    /// Returns the number of sequences of a row.
    pub fn sequences(&self) -> usize {
        match self.form() {
            RowForm::Pair { .. } => 2,
            // Of the first row: others may have another number of negatives.
            RowForm::Texts => self.row(0).texts().len(),
            _ => 1,
        }
    }

    /// Returns the form of the first row, whose kind all have.
    fn form(&self) -> RowForm {
        let first = self.indexes.first();
        first.map_or(RowForm::Single, |index| {
            self.corpus.row(*index as usize).form()
        })
    }

    fn row(&self, place: u32) -> TokenSlice<'a> {
        self.corpus.row(self.indexes[place as usize] as usize)
    }

    /// Builds a batch of the rows at these places, or of draws. Each row is identified by its index
    /// in the corpus, and in the upper 32 bits by how often its epoch has drawn it before.
    pub fn batch<D: Into<Draw> + Copy>(&self, draws: &[D]) -> Batch {
        let draws = draws.iter().map(|draw| (*draw).into());
        let key = |Draw { place, copy }: Draw| {
            u64::from(copy) << 32 | u64::from(self.indexes[place as usize])
        };
        if let Some(scoring) = self.preferences.scoring {
            let scored = draws.filter_map(|draw| Some((key(draw), self.row(draw.place).scored()?)));
            return Batch::of_scored(scored, scoring);
        }
        if let RowForm::Single | RowForm::Weighted { .. } = self.form() {
            let top = self.top_of(draws.clone());
            let rows = draws.map(|draw| {
                let row = self.row(draw.place);
                let (ids, trained) = (row.ids(), row.trained());
                let weight = self.loss_weight(draw.place);
                (key(draw), TokenRow { ids, trained }, weight)
            });
            return Batch {
                top,
                ..Batch::weighted(rows)
            };
        }
        if self.form() == RowForm::Texts {
            let texts = draws.map(|draw| (key(draw), self.row(draw.place).texts()));
            return Batch::of_texts(texts, self.preferences.pooling);
        }
        let rated = draws.filter_map(|draw| {
            let reference = self.reference.get(draw.place as usize);
            Some((
                key(draw),
                self.row(draw.place).rated()?,
                reference.copied().unwrap_or_default(),
            ))
        });
        Batch::of_preferences(rated, self.preferences.reads_prompts)
    }

    /// Returns the most likely tokens of all targets of draws, in their order.
    fn top_of(&self, draws: impl Iterator<Item = Draw>) -> Option<TopTokens> {
        let top = self.top?;
        let mut all = TopTokens {
            each: top.each(),
            ..TopTokens::default()
        };
        draws.for_each(|draw| top.append(draw.place, &mut all));
        Some(all)
    }

    /// Builds a batch of the prompts of the rows at these places, each with the completion of the
    /// row before it in its group; the first of a group has that of the last. A group is a number
    /// of consecutive rows of the data, so that the result depends neither on the order of an epoch
    /// nor on micro-batches. A last group of one row takes the completion of the row before it.
    ///
    /// Sequences are cut to the limit of the run.
    pub fn mismatched<D: Into<Draw> + Copy>(&self, draws: &[D]) -> Batch {
        let rows = draws.iter().filter_map(|draw| {
            let Draw { place, .. } = (*draw).into();
            let row = self.mismatched_row(place)?;
            let [_, reference] = self
                .reference
                .get(place as usize)
                .copied()
                .unwrap_or_default();
            Some((u64::from(place), row, [reference; 2]))
        });
        Batch::of_preferences(rows, false)
    }

    fn mismatched_row(&self, place: u32) -> Option<RatedRow> {
        let other = donor(place as usize, self.len(), self.preferences.group);
        let (RatedRow::Rated(own, desirable), RatedRow::Rated(other, _)) = (
            self.row(place).rated()?,
            self.row(u32::try_from(other).ok()?).rated()?,
        ) else {
            return None;
        };
        let prompt = own.ids.len() - own.trained.iter().filter(|trained| **trained).count();
        let completion = other.ids.iter().zip(&other.trained);
        let completion = completion
            .filter(|(_, trained)| **trained)
            .map(|(id, _)| *id);
        let mut ids: Vec<u32> = own.ids[..prompt]
            .iter()
            .copied()
            .chain(completion)
            .collect();
        ids.truncate(self.corpus.limit());
        let trained = (0..ids.len()).map(|place| place >= prompt).collect();
        Some(RatedRow::Rated(TokenRow { ids, trained }, desirable))
    }
}

/// Returns the row whose completion the row at a place takes, among `rows` rows in groups of
/// `group`.
fn donor(place: usize, rows: usize, group: usize) -> usize {
    let first = place - place % group.max(1);
    let end = rows.min(first + group.max(1));
    match place.checked_sub(1) {
        Some(before) if place > first || end - first == 1 => before,
        _ => end - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_rotate_within_groups_of_the_data() {
        let of = |rows: usize, group: usize| -> Vec<usize> {
            (0..rows).map(|place| donor(place, rows, group)).collect()
        };
        assert_eq!(of(6, 3), [2, 0, 1, 5, 3, 4]);
        assert_eq!(of(5, 3), [2, 0, 1, 4, 3]);
        // A group of one row takes from the row before it, and one row alone from itself.
        assert_eq!(of(4, 3), [2, 0, 1, 2]);
        assert_eq!(of(1, 3), [0]);
        assert_eq!(of(3, 100), [2, 0, 1]);
    }
}
