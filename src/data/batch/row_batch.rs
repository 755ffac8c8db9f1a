//! Batches of rows: laid end to end in one row without padding, with the positions that carry a
//! loss.

use crate::data::example::token_row::TokenRow;
use crate::terms::Unit;

/// Rows of one micro-batch.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Ids of all rows, end to end.
    pub ids: Vec<i32>,
    /// Tokens of each row.
    pub lengths: Vec<usize>,
    /// Identifier of each row in its dataset, independent of the batch.
    pub rows: Vec<u64>,
    /// Index into `ids` of the position before each trained token, ascending.
    pub positions: Vec<i32>,
    /// The trained tokens.
    pub targets: Vec<i32>,
    /// One unit for each of `rows`: the targets that belong to it.
    pub units: Vec<Unit>,
}

impl Batch {
    /// Lays rows end to end; each comes with its identifier. The first token of a row is never a
    /// target, because nothing predicts it.
    pub fn new(rows: impl IntoIterator<Item = (u64, TokenRow)>) -> Self {
        let mut batch = Self::default();
        for (key, row) in rows {
            let (start, first_target) = (batch.ids.len(), batch.targets.len());
            for place in (1..row.ids.len()).filter(|place| row.trained[*place]) {
                batch.positions.push(as_index(start + place - 1));
                batch.targets.push(as_index(row.ids[place] as usize));
            }
            batch
                .ids
                .extend(row.ids.iter().map(|id| as_index(*id as usize)));
            batch.lengths.push(row.ids.len());
            batch.rows.push(key);
            batch.units.push(Unit {
                targets: first_target..batch.targets.len(),
            });
        }
        batch
    }

    /// Returns the identifier of the row that a target belongs to.
    ///
    /// # Panics
    /// There is no such target.
    pub fn row_of(&self, target: usize) -> u64 {
        self.rows[self
            .units
            .partition_point(|unit| unit.targets.end <= target)]
    }

    /// Returns the number of tokens in all rows.
    pub fn tokens(&self) -> u64 {
        self.ids.len() as u64
    }

    /// Returns the number of tokens that carry a loss.
    pub fn trained_tokens(&self) -> u64 {
        self.targets.len() as u64
    }
}

fn as_index(value: usize) -> i32 {
    i32::try_from(value)
        .expect("a batch has fewer than 2^31 tokens and a vocabulary fewer than 2^31 entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_trained_tokens_and_no_row_predicts_the_next() {
        let row = |ids: &[u32], trained: &[bool]| TokenRow {
            ids: ids.to_vec(),
            trained: trained.to_vec(),
        };
        let batch = Batch::new([
            (7, row(&[5, 6, 7], &[true, false, true])),
            (9, row(&[8, 9], &[true, true])),
        ]);
        assert_eq!(
            (batch.ids.as_slice(), batch.lengths.as_slice()),
            ([5, 6, 7, 8, 9].as_slice(), [3, 2].as_slice())
        );
        assert_eq!(
            (batch.positions.as_slice(), batch.targets.as_slice()),
            ([1, 3].as_slice(), [7, 9].as_slice())
        );
        assert_eq!(
            (
                batch.tokens(),
                batch.trained_tokens(),
                batch.rows.as_slice()
            ),
            (5, 2, [7, 9].as_slice())
        );
        assert_eq!([batch.row_of(0), batch.row_of(1)], [7, 9]);
        assert_eq!(
            batch.units,
            [Unit { targets: 0..1 }, Unit { targets: 1..2 }]
        );
    }

    #[test]
    fn a_row_without_a_trained_token_is_an_empty_unit() {
        let row = |trained: [bool; 2]| TokenRow {
            ids: vec![1, 2],
            trained: trained.to_vec(),
        };
        let batch = Batch::new([
            (4, row([true, false])),
            (5, row([false, true])),
            (6, row([true, false])),
            (7, row([true, true])),
        ]);
        assert_eq!(
            batch
                .units
                .iter()
                .map(|unit| unit.targets.clone())
                .collect::<Vec<_>>(),
            [0..0, 0..1, 1..1, 1..2]
        );
        assert_eq!([batch.row_of(0), batch.row_of(1)], [5, 7]);
    }
}
