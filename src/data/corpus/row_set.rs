//! A subset of rows, one bit each, so that the kept rows of a data file take little memory however
//! many rows it has.

use rayon::prelude::*;

/// Number of rows in a word of bits.
const WORD_ROWS: usize = 64;
/// Number of words in a block, whose chosen rows are counted in advance.
const BLOCK_WORDS: usize = 8;

/// A set of chosen rows, in order.
#[derive(Debug, Clone, Default)]
pub struct RowSet {
    /// Bits of the rows, the lowest bit first.
    words: Vec<u64>,
    /// Number of chosen rows before each block.
    before: Vec<u32>,
    len: usize,
}

impl RowSet {
    /// Chooses from at most 2^32 rows by a predicate, in parallel.
    pub fn of(rows: usize, is_chosen: impl Fn(usize) -> bool + Sync) -> Self {
        let word = |word: usize| {
            let rows = (word * WORD_ROWS..rows).take(WORD_ROWS);
            rows.enumerate().fold(0, |bits, (bit, row)| {
                bits | u64::from(is_chosen(row)) << bit
            })
        };
        let words: Vec<u64> = (0..rows.div_ceil(WORD_ROWS))
            .into_par_iter()
            .map(word)
            .collect();
        let (mut before, mut len) = (Vec::with_capacity(words.len().div_ceil(BLOCK_WORDS)), 0);
        for block in words.chunks(BLOCK_WORDS) {
            before.push(len as u32);
            len += count(block);
        }
        Self { words, before, len }
    }

    /// Returns the number of chosen rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the place of a row among the chosen ones, if it is chosen.
    pub fn place(&self, row: usize) -> Option<usize> {
        let (word, bit) = (row / WORD_ROWS, row % WORD_ROWS);
        let bits = self.words.get(word)?;
        let block = word / BLOCK_WORDS;
        let in_words = count(&self.words[block * BLOCK_WORDS..word]);
        let in_word = (bits & ((1 << bit) - 1)).count_ones() as usize;
        (bits >> bit & 1 == 1).then_some(self.before[block] as usize + in_words + in_word)
    }

    /// Returns the chosen row at a place.
    ///
    /// # Panics
    /// There is no such place.
    pub fn row(&self, place: usize) -> usize {
        assert!(place < self.len, "place {place} of {}", self.len);
        let block = self
            .before
            .partition_point(|before| *before as usize <= place)
            - 1;
        let (mut left, mut word) = (place - self.before[block] as usize, block * BLOCK_WORDS);
        while count(&self.words[word..=word]) <= left {
            left -= count(&self.words[word..=word]);
            word += 1;
        }
        let rest = (0..left).fold(self.words[word], |bits, _| bits & (bits - 1));
        word * WORD_ROWS + rest.trailing_zeros() as usize
    }
}

fn count(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_none_there_is_none() {
        assert_eq!(
            (
                RowSet::of(0, |_| true).len(),
                RowSet::of(1000, |_| false).len()
            ),
            (0, 0)
        );
        assert_eq!(RowSet::of(1000, |_| false).place(7), None);
    }

    proptest! {
        #[test]
        fn places_and_rows_are_those_of_a_list(
            rows in prop::collection::vec(any::<bool>(), 0..2000),
            dense in any::<bool>(),
        ) {
            let is_chosen = |row: usize| rows[row] != (dense && !row.is_multiple_of(97));
            let listed: Vec<usize> = (0..rows.len()).filter(|row| is_chosen(*row)).collect();
            let chosen = RowSet::of(rows.len(), is_chosen);
            prop_assert_eq!(chosen.len(), listed.len());
            for (place, row) in listed.iter().enumerate() {
                prop_assert_eq!((chosen.row(place), chosen.place(*row)), (*row, Some(place)));
            }
            for row in (0..rows.len() + 70).filter(|row| !listed.contains(row)).step_by(13) {
                prop_assert_eq!(chosen.place(row), None);
            }
        }
    }
}
