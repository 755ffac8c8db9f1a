//! A choice of rows of a corpus, batched by place.

use super::batch::Batch;
use super::corpus::Corpus;
use super::encode::TokenRow;

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

    /// All rows in their order, in batches of so many.
    pub fn batches(&self, rows: usize) -> impl Iterator<Item = Batch> {
        let places: Vec<u32> = (0..).take(self.len()).collect();
        (0..self.len()).step_by(rows).map(move |start| self.batch(&places[start..self.len().min(start + rows)]))
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
