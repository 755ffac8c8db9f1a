//! A choice of rows of a corpus, batched by place.

use rayon::prelude::*;

use super::batch::Batch;
use super::corpus::Corpus;
use super::encode::TokenRow;
use super::pack::{Packing, Packs, Visit};

/// Some rows of a corpus, in an order of their own.
#[derive(Debug)]
pub struct Rows<'a> {
    corpus: &'a Corpus,
    indexes: Vec<u32>,
}

impl<'a> Rows<'a> {
    /// The rows of `corpus` with these indexes.
    pub fn new(corpus: &'a Corpus, indexes: Vec<u32>) -> Self {
        Self { corpus, indexes }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// All rows in packs, by their places.
    pub fn packs(&self, packing: Packing, visit: Visit) -> Packs {
        let length = |index: &u32| self.corpus.row(*index as usize).len() as u32;
        match packing {
            Packing::Off => Packs::single(self.len(), visit),
            Packing::BestFit { tokens } => {
                Packs::best_fit(&self.indexes.par_iter().map(length).collect::<Vec<_>>(), tokens, visit)
            }
        }
    }

    /// All rows, in batches of so many packs.
    pub fn batches(&self, size: usize, packing: Packing) -> impl Iterator<Item = Batch> {
        let packs = self.packs(packing, Visit::InOrder);
        (0..packs.len()).step_by(size).map(move |first| self.batch(packs.rows(first..packs.len().min(first + size))))
    }

    /// Tokens of the row at a place, and how many of them carry a loss.
    pub fn counts(&self, place: u32) -> (usize, usize) {
        let row = self.corpus.row(self.indexes[place as usize] as usize);
        (row.len(), row.trained_tokens())
    }

    /// A batch of the rows at these places; each is identified by its index in the corpus.
    pub fn batch(&self, places: &[u32]) -> Batch {
        let indexes = places.iter().map(|place| self.indexes[*place as usize]);
        Batch::new(indexes.map(|index| {
            let row = self.corpus.row(index as usize);
            (u64::from(index), TokenRow { ids: row.ids(), trained: row.trained() })
        }))
    }
}
