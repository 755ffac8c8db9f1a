//! Rows to a batch: padded on the right to its longest row, with the places that carry a loss.

use super::encode::TokenRow;

/// Rows of one micro-batch.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Tokens in the longest row.
    pub length: usize,
    /// Padded ids, row by row, rows · length.
    pub ids: Vec<i32>,
    /// Index into `ids` of the position before each trained token, ascending.
    pub positions: Vec<i32>,
    /// The trained tokens.
    pub targets: Vec<i32>,
    /// What identifies each row in its dataset, wherever it is batched.
    pub rows: Vec<u64>,
    /// Tokens, padding excluded.
    pub tokens: u64,
}

impl Batch {
    /// Pads rows; each comes with what identifies it. The first token of a row is never a target: nothing predicts it.
    pub fn new(rows: impl IntoIterator<Item = (u64, TokenRow)>) -> Self {
        let rows: Vec<(u64, TokenRow)> = rows.into_iter().collect();
        let length = rows.iter().map(|(_, row)| row.ids.len()).max().unwrap_or(0);
        let mut batch = Self { length, ..Self::default() };
        for (key, row) in rows {
            let start = batch.ids.len();
            let trained = (1..row.ids.len()).filter(|index| row.trained[*index]);
            for index in trained {
                batch.positions.push(as_index(start + index - 1));
                batch.targets.push(as_index(row.ids[index] as usize));
            }
            batch.tokens += row.ids.len() as u64;
            batch.ids.extend(row.ids.iter().map(|id| as_index(*id as usize)));
            batch.ids.resize(start + length, 0);
            batch.rows.push(key);
        }
        batch
    }

    /// What identifies the row of a target.
    pub fn row_of(&self, target: usize) -> u64 {
        self.rows[self.positions[target] as usize / self.length]
    }

    /// Tokens that carry a loss.
    pub fn trained_tokens(&self) -> u64 {
        self.targets.len() as u64
    }
}

fn as_index(value: usize) -> i32 {
    i32::try_from(value).expect("a batch has fewer than 2^31 tokens and a vocabulary fewer than 2^31 entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_trained_tokens_and_padding_carries_none() {
        let row = |ids: &[u32], trained: &[bool]| TokenRow { ids: ids.to_vec(), trained: trained.to_vec() };
        let batch = Batch::new([(7, row(&[5, 6, 7], &[true, false, true])), (9, row(&[8, 9], &[false, true]))]);
        assert_eq!((batch.length, batch.ids.as_slice()), (3, [5, 6, 7, 8, 9, 0].as_slice()));
        assert_eq!((batch.positions.as_slice(), batch.targets.as_slice()), ([1, 3].as_slice(), [7, 9].as_slice()));
        assert_eq!((batch.tokens, batch.trained_tokens(), batch.rows.as_slice()), (5, 2, [7, 9].as_slice()));
        assert_eq!([batch.row_of(0), batch.row_of(1)], [7, 9]);
    }
}
