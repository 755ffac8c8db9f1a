//! A selection of rows of a corpus, batched by place.

use rayon::prelude::*;

use super::mixture::{Draw, Mixture};
use super::pack::{Packing, Packs, Visit};
use super::row_batch::Batch;
use crate::data::corpus::indexed_rows::Corpus;
use crate::data::example::token_row::TokenRow;

/// A selection of rows of a corpus, in an order of its own.
#[derive(Debug)]
pub struct Rows<'a> {
    corpus: &'a Corpus,
    indexes: Vec<u32>,
    mixture: Option<Mixture>,
}

impl<'a> Rows<'a> {
    /// Selects the rows of `corpus` with these indexes.
    pub fn new(corpus: &'a Corpus, indexes: Vec<u32>) -> Self {
        Self {
            corpus,
            indexes,
            mixture: None,
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

    /// Returns the number of tokens of the row at a place, and how many of them carry a loss.
    pub fn counts(&self, place: u32) -> (usize, usize) {
        let row = self.corpus.row(self.indexes[place as usize] as usize);
        (row.len(), row.trained_tokens())
    }

    /// Builds a batch of the rows at these places, or of draws. Each row is identified by its index
    /// in the corpus, and in the upper 32 bits by how often its epoch has drawn it before.
    pub fn batch<D: Into<Draw> + Copy>(&self, draws: &[D]) -> Batch {
        Batch::new(draws.iter().map(|draw| {
            let Draw { place, copy } = (*draw).into();
            let index = self.indexes[place as usize];
            let row = self.corpus.row(index as usize);
            (
                u64::from(copy) << 32 | u64::from(index),
                TokenRow {
                    ids: row.ids(),
                    trained: row.trained(),
                },
            )
        }))
    }
}
