//! Batches of rows: laid end to end in one row without padding, with the positions that carry a
//! loss.

use crate::data::example::token_row::{RatedRow, ScoredRow, TokenRow};
use crate::keyed_random::mix;
use crate::terms::{Pooling, TopTokens, Unit, UnitKind};

/// The bit by which the key of a rejected sequence differs from that of the chosen one.
const REJECTED: u64 = 1 << 63;

/// The bits of the key of a text after the first of its row.
const TEXT_SHIFT: u32 = 48;

/// How rows are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scoring {
    /// The padding token, which no text is scored at.
    pub padding: Option<u32>,
    /// Where a text is scored: at its last token that is not padding, its first, or their mean.
    pub pooling: Pooling,
}

/// Rows of one micro-batch.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Ids of all rows, end to end.
    pub ids: Vec<i32>,
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
    /// Identifier of each sequence, independent of the batch: that of its row in its dataset. Of a
    /// rejected sequence the highest bit is set.
    pub rows: Vec<u64>,
    /// Index into `ids` of the position before each trained token, ascending; or of each token that
    /// is scored.
    pub positions: Vec<i32>,
    /// The trained tokens; or those that are scored.
    pub targets: Vec<i32>,
    /// One unit for each row of data: the targets that belong to it.
    pub units: Vec<Unit>,
    /// The most likely tokens of each target under a teacher, where rows come with them.
    pub top: Option<TopTokens>,
    /// The first token of the second type in each sequence, or its length; empty where all tokens
    /// of all sequences are of one type.
    pub seconds: Vec<usize>,
    /// Where the rows of `positions` end that belong to each target, if their mean is scored; empty
    /// where each target has one.
    pub pooled: Vec<usize>,
}

impl Batch {
    /// Lays rows end to end; each comes with its identifier. The first token of a row is never a
    /// target, because nothing predicts it.
    pub fn new(rows: impl IntoIterator<Item = (u64, TokenRow)>) -> Self {
        Self::weighted(rows.into_iter().map(|(key, row)| (key, row, 1.0)))
    }

    /// Lays rows end to end as [`Batch::new`] does; each comes with the factor of its loss too.
    pub fn weighted(rows: impl IntoIterator<Item = (u64, TokenRow, f32)>) -> Self {
        let mut batch = Self::default();
        for (key, row, weight) in rows {
            let first_target = batch.targets.len();
            batch.push(key, &row, false);
            let targets = first_target..batch.targets.len();
            batch.units.push(Unit::weighted_tokens(targets, weight));
        }
        batch
    }

    /// Lays the sequences of rows of preferences end to end; each row comes with its identifier and
    /// the log-probabilities of its completions under the reference. With `reads_prompts`, the
    /// prompts of chosen sequences are targets too.
    pub fn of_preferences(
        rows: impl IntoIterator<Item = (u64, RatedRow, [f64; 2])>,
        reads_prompts: bool,
    ) -> Self {
        let mut batch = Self::default();
        for (key, row, reference) in rows {
            let first_target = batch.targets.len();
            let kind = match row {
                RatedRow::Pair([chosen, rejected]) => {
                    batch.push(key, &chosen, reads_prompts);
                    let border = batch.targets.len();
                    let completions = (1..chosen.ids.len())
                        .filter(|place| chosen.trained[*place])
                        .count();
                    batch.push(key | REJECTED, &rejected, false);
                    UnitKind::Pair {
                        completion: border - completions,
                        rejected: border,
                        reference,
                    }
                }
                RatedRow::Rated(row, desirable) => {
                    batch.push(key, &row, false);
                    let [reference, _] = reference;
                    UnitKind::Rated {
                        desirable,
                        reference,
                    }
                }
            };
            batch.units.push(Unit {
                targets: first_target..batch.targets.len(),
                kind,
            });
        }
        batch
    }

    /// Lays the texts of rows end to end; each row comes with its identifier. The tokens whose
    /// hidden rows are pooled stand in the place of targets.
    pub fn of_texts(
        rows: impl IntoIterator<Item = (u64, Vec<Vec<u32>>)>,
        pooling: Pooling,
    ) -> Self {
        let mut batch = Self::default();
        for (key, texts) in rows {
            let first_target = batch.targets.len();
            let mut ends = Vec::with_capacity(texts.len());
            for (index, ids) in texts.iter().enumerate() {
                let start = batch.ids.len();
                for place in pooling.places(ids.len()) {
                    batch.positions.push(as_index(start + place));
                    batch.targets.push(as_index(ids[place] as usize));
                }
                batch
                    .ids
                    .extend(ids.iter().map(|id| as_index(*id as usize)));
                batch.lengths.push(ids.len());
                batch.rows.push(key | (index as u64) << TEXT_SHIFT);
                let hash = ids
                    .iter()
                    .fold(ids.len() as u64, |hash, id| mix(hash ^ u64::from(*id)));
                ends.push((batch.targets.len(), hash));
            }
            batch.units.push(Unit {
                targets: first_target..batch.targets.len(),
                kind: UnitKind::Texts(ends),
            });
        }
        batch
    }

    /// Lays rows that are scored end to end; each comes with its identifier. A text is scored at
    /// one token or at the mean of all; words at their trained tokens.
    pub fn of_scored(rows: impl IntoIterator<Item = (u64, ScoredRow)>, scoring: Scoring) -> Self {
        let mut batch = Self::default();
        for (key, row) in rows {
            let first_target = batch.targets.len();
            let kind = match row {
                ScoredRow::Pair([chosen, rejected], margin) => {
                    batch.push_text(key, &chosen, scoring);
                    batch.push_text(key | REJECTED, &rejected, scoring);
                    UnitKind::Compared { margin }
                }
                ScoredRow::Text {
                    row,
                    second,
                    values,
                } => {
                    batch.push_text(key, &row, scoring);
                    batch.seconds.pop();
                    batch.seconds.push(second);
                    UnitKind::Labeled { values }
                }
                ScoredRow::Tokens(row, values) => {
                    let places = (0..row.ids.len()).filter(|place| row.trained[*place]);
                    batch.push_scored(key, &row, places);
                    UnitKind::Labeled { values }
                }
            };
            batch.units.push(Unit {
                targets: first_target..batch.targets.len(),
                kind,
            });
        }
        if batch.seconds == batch.lengths {
            batch.seconds.clear();
        }
        batch
    }

    /// Appends a text that is scored as a whole.
    fn push_text(&mut self, key: u64, row: &TokenRow, scoring: Scoring) {
        match scoring.pooling {
            Pooling::First => self.push_scored(key, row, [0]),
            Pooling::Last => self.push_scored(key, row, [last_token(&row.ids, scoring.padding)]),
            Pooling::Mean => {
                let first = self.targets.len();
                self.push_scored(key, row, 0..row.ids.len());
                self.targets.truncate(first + 1);
                self.pooled.push(self.positions.len());
            }
        }
    }

    /// Appends a sequence that is scored at some places.
    fn push_scored(&mut self, key: u64, row: &TokenRow, places: impl IntoIterator<Item = usize>) {
        let start = self.ids.len();
        for place in places {
            self.positions.push(as_index(start + place));
            self.targets.push(as_index(row.ids[place] as usize));
        }
        self.ids
            .extend(row.ids.iter().map(|id| as_index(*id as usize)));
        self.lengths.push(row.ids.len());
        self.seconds.push(row.ids.len());
        self.rows.push(key);
    }

    /// Appends a sequence with its trained tokens, or all tokens after the first, as targets.
    fn push(&mut self, key: u64, row: &TokenRow, reads_all: bool) {
        let start = self.ids.len();
        for place in (1..row.ids.len()).filter(|place| reads_all || row.trained[*place]) {
            self.positions.push(as_index(start + place - 1));
            self.targets.push(as_index(row.ids[place] as usize));
        }
        self.ids
            .extend(row.ids.iter().map(|id| as_index(*id as usize)));
        self.lengths.push(row.ids.len());
        self.rows.push(key);
    }

    /// Returns the identifier of the row that a target belongs to.
    ///
    /// # Panics
    /// There is no such target.
    pub fn row_of(&self, target: usize) -> u64 {
        let unit = self
            .units
            .partition_point(|unit| unit.targets.end <= target);
        let sequences = self.rows.len() / self.units.len();
        self.rows[unit * sequences]
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

/// Returns the place of the last token that is not padding; the first of padding only.
fn last_token(ids: &[u32], padding: Option<u32>) -> usize {
    ids.iter()
        .rposition(|id| Some(*id) != padding)
        .unwrap_or_default()
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
        assert_eq!(batch.units, [Unit::tokens(0..1), Unit::tokens(1..2)]);
    }

    #[test]
    fn both_halves_of_a_pair_are_one_unit() {
        let row = |ids: &[u32], prompt: usize| TokenRow {
            ids: ids.to_vec(),
            trained: (0..ids.len()).map(|place| place >= prompt).collect(),
        };
        let pair = || RatedRow::Pair([row(&[5, 6, 7, 8], 2), row(&[5, 6, 9], 2)]);
        for (reads_prompts, targets, completion) in
            [(false, vec![7, 8, 9], 0), (true, vec![6, 7, 8, 9], 1)]
        {
            let batch = Batch::of_preferences([(3, pair(), [-1.0, -2.0])], reads_prompts);
            assert_eq!(batch.ids, [5, 6, 7, 8, 5, 6, 9]);
            assert_eq!(
                (batch.lengths.as_slice(), &batch.targets),
                ([4, 3].as_slice(), &targets)
            );
            assert_eq!(batch.rows, [3, 3 | REJECTED]);
            let kind = UnitKind::Pair {
                completion,
                rejected: targets.len() - 1,
                reference: [-1.0, -2.0],
            };
            let unit = Unit {
                targets: 0..targets.len(),
                kind,
            };
            assert_eq!(unit.supervised_targets(), targets.len() - 1);
            assert_eq!(batch.units, [unit]);
            assert_eq!(batch.row_of(targets.len() - 1), 3);
        }
    }

    #[test]
    fn texts_are_pooled_over_all_their_tokens_or_at_one_end() {
        let texts = || vec![vec![1, 5, 6], vec![1, 7], vec![1, 7]];
        for (pooling, positions) in [
            (Pooling::Mean, vec![0, 1, 2, 3, 4, 5, 6]),
            (Pooling::Last, vec![2, 4, 6]),
            (Pooling::First, vec![0, 3, 5]),
        ] {
            let batch = Batch::of_texts([(9, texts())], pooling);
            assert_eq!(batch.lengths, [3, 2, 2]);
            assert_eq!(batch.positions, positions);
            let UnitKind::Texts(ends) = &batch.units[0].kind else {
                panic!("{:?}", batch.units);
            };
            assert_eq!(ends.last().map(|(end, _)| *end), Some(positions.len()));
            assert!(ends[1].1 == ends[2].1 && ends[0].1 != ends[1].1);
        }
    }

    #[test]
    fn texts_are_scored_at_their_last_token_that_is_not_padding() {
        let row = |ids: &[u32], trained: &[bool]| TokenRow {
            ids: ids.to_vec(),
            trained: trained.to_vec(),
        };
        let text = |ids: &[u32]| row(ids, &vec![true; ids.len()]);
        let labeled = |ids: &[u32], value: f32| ScoredRow::Text {
            row: text(ids),
            second: ids.len(),
            values: vec![value],
        };
        let rows = [
            (3, labeled(&[5, 0, 6], 1.0)),
            (4, labeled(&[7, 8, 0, 0], 0.0)),
            (5, ScoredRow::Pair([text(&[9]), text(&[4, 0])], 0.5)),
        ];
        let scoring = |pooling| Scoring {
            padding: Some(0),
            pooling,
        };
        let batch = Batch::of_scored(rows.clone(), scoring(Pooling::Last));
        assert_eq!(batch.positions, [2, 4, 7, 8]);
        assert_eq!(batch.targets, [6, 8, 9, 4]);
        assert_eq!(batch.rows, [3, 4, 5, 5 | REJECTED]);
        assert_eq!(batch.units[2].targets, 2..4);
        assert_eq!(batch.units[2].kind, UnitKind::Compared { margin: 0.5 });
        let tags = row(&[1, 2, 3], &[true, false, true]);
        assert!(batch.seconds.is_empty() && batch.pooled.is_empty());
        let tags = [(0, ScoredRow::Tokens(tags, vec![2.0, 0.0]))];
        let batch = Batch::of_scored(tags, scoring(Pooling::Mean));
        assert_eq!(batch.positions, [0, 2], "the first token may have a class");
        let batch = Batch::of_scored(rows.clone(), scoring(Pooling::First));
        assert_eq!(batch.positions, [0, 3, 7, 8]);
        let batch = Batch::of_scored(rows, scoring(Pooling::Mean));
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(batch.pooled, [3, 7, 8, 10]);
        assert_eq!(
            (batch.targets.len(), batch.units[2].targets.clone()),
            (4, 2..4)
        );
        assert_eq!(last_token(&[0, 0], Some(0)), 0);
    }

    #[test]
    fn second_texts_are_known_where_a_row_has_one() {
        let row = |second: usize| ScoredRow::Text {
            row: TokenRow {
                ids: vec![1, 5, 2, 6, 2],
                trained: vec![true; 5],
            },
            second,
            values: vec![1.0],
        };
        let scoring = Scoring {
            padding: None,
            pooling: Pooling::First,
        };
        let batch = Batch::of_scored([(0, row(5)), (1, row(3))], scoring);
        assert_eq!(batch.seconds, [5, 3]);
        let batch = Batch::of_scored([(0, row(5))], scoring);
        assert!(batch.seconds.is_empty());
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
