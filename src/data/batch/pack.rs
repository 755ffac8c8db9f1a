//! Packs short rows into rows of `sequence_len` tokens. Which rows share a pack is a function of
//! their order and lengths alone, so a resumed run, or one on another machine, has the same packs.
//!
//! Best fit (Johnson et al. 1974, doi:10.1137/0203025) in the order of the epoch: each row joins
//! the pack with the least room that still has enough for it, or opens a new one. Sorting by length
//! first would fill a little better (99.96 % instead of 99.25 % of 100,000 log-normal lengths with
//! a mean of a fifth of a pack), but then the lengths alone would decide which rows share a pack,
//! and every epoch would have the same packs.

use std::collections::BTreeSet;

use super::mixture::Draw;
use crate::data::corpus::shuffle::shuffled;
use crate::keyed_random::mix;

/// Content of a row of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// One row of the data per row.
    Off,
    /// As many rows of the data as best fit finds room for.
    BestFit {
        /// Maximum number of tokens in a pack.
        tokens: usize,
    },
}

/// Order in which rows are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// The order of the data.
    InOrder,
    /// A shuffled order.
    Shuffled {
        /// Seed shared by all epochs.
        seed: u64,
        /// The epoch, from 0.
        epoch: u64,
    },
}

/// The rows of an epoch in the order in which it visits them, and where each pack ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packs {
    rows: Vec<u32>,
    /// How often the epoch has drawn each row before; `None`: never.
    copies: Option<Vec<u32>>,
    /// End of each pack in `rows`; `None`: each row is a pack.
    ends: Option<Vec<u32>>,
}

impl Packs {
    /// Visits `count` rows, each in a pack of its own.
    pub fn single(count: usize, visit: Visit) -> Self {
        Self {
            rows: visit.order(count),
            copies: None,
            ends: None,
        }
    }

    /// Packs rows of these lengths into packs of at most `tokens` tokens; a longer row has a pack
    /// of its own.
    ///
    /// The packs that are opened last have the fewest rows to choose from: for log-normal lengths
    /// the first tenth of the packs is 0.2 % empty and its rows have 439 tokens on average, while
    /// the last tenth is 1.3 % empty and its rows have 474. The packs are therefore shuffled once
    /// more, so that the steps of an epoch are alike.
    pub fn best_fit(lengths: &[u32], tokens: usize, visit: Visit) -> Self {
        let packs = best_fit(&visit.order(lengths.len()), lengths, tokens);
        let order = match visit {
            Visit::InOrder => Visit::InOrder,
            Visit::Shuffled { seed, epoch } => Visit::Shuffled {
                seed: mix(seed),
                epoch,
            },
        };
        let (mut rows, mut ends) = (
            Vec::with_capacity(lengths.len()),
            Vec::with_capacity(packs.len()),
        );
        for pack in order.order(packs.len()) {
            rows.extend(&packs[pack as usize]);
            ends.push(rows.len() as u32);
        }
        Self {
            rows,
            copies: None,
            ends: Some(ends),
        }
    }

    /// Replaces places among the draws by the rows that were drawn.
    #[must_use]
    pub fn of_draws(self, draws: &[Draw]) -> Self {
        let of_place = self.rows.iter().map(|place| draws[*place as usize]);
        let (rows, copies) = of_place.map(|Draw { place, copy }| (place, copy)).unzip();
        Self {
            rows,
            copies: Some(copies),
            ends: self.ends,
        }
    }

    /// Returns the number of packs.
    pub fn len(&self) -> usize {
        self.ends.as_ref().unwrap_or(&self.rows).len()
    }

    /// Whether there are no packs.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the rows of a range of packs.
    ///
    /// # Panics
    /// There are no such packs.
    pub fn rows(&self, packs: std::ops::Range<usize>) -> &[u32] {
        &self.rows[self.begin(packs.start)..self.begin(packs.end)]
    }

    /// Returns the rows of a range of packs, each with how often the epoch has drawn it before.
    ///
    /// # Panics
    /// There are no such packs.
    pub fn draws(&self, packs: std::ops::Range<usize>) -> Vec<Draw> {
        let places = self.begin(packs.start)..self.begin(packs.end);
        let copy = |place: usize| self.copies.as_ref().map_or(0, |copies| copies[place]);
        places
            .map(|place| Draw {
                place: self.rows[place],
                copy: copy(place),
            })
            .collect()
    }

    /// Returns the place among the epoch's rows of the first row of a pack, or the end of the last
    /// pack.
    pub fn begin(&self, pack: usize) -> usize {
        match (pack.checked_sub(1), &self.ends) {
            (None, _) => 0,
            (Some(_), None) => pack,
            (Some(before), Some(ends)) => ends[before] as usize,
        }
    }

    /// Returns the first pack that has no row among the first `place` rows of the epoch.
    pub fn after(&self, place: usize) -> usize {
        self.ends.as_ref().map_or(place.min(self.len()), |ends| {
            ends.partition_point(|end| *end as usize <= place)
        })
    }
}

impl Visit {
    fn order(self, count: usize) -> Vec<u32> {
        match self {
            Self::InOrder => (0..).take(count).collect(),
            Self::Shuffled { seed, epoch } => shuffled(seed, epoch, count),
        }
    }
}

/// Packs rows in order, and returns the packs in the order of their first rows; of packs with the
/// same room the oldest is taken.
fn best_fit(order: &[u32], lengths: &[u32], tokens: usize) -> Vec<Vec<u32>> {
    let (mut packs, mut open): (Vec<Vec<u32>>, BTreeSet<(usize, usize)>) =
        (Vec::new(), BTreeSet::new());
    for row in order {
        let length = lengths[*row as usize] as usize;
        let (room, pack) = if let Some(best) = open.range((length, 0)..).next().copied() {
            open.remove(&best);
            best
        } else {
            packs.push(Vec::new());
            (tokens, packs.len() - 1)
        };
        packs[pack].push(*row);
        if room > length {
            open.insert((room - length, pack));
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keyed_random::unit;

    const VISIT: Visit = Visit::Shuffled { seed: 42, epoch: 0 };

    fn all(packs: &Packs) -> Vec<Vec<u32>> {
        (0..packs.len())
            .map(|pack| packs.rows(pack..pack + 1).to_vec())
            .collect()
    }

    #[test]
    fn each_row_joins_the_fullest_pack_that_has_room() {
        let packs = Packs::best_fit(&[6, 5, 3, 4, 2, 10, 1, 12], 10, Visit::InOrder);
        assert_eq!(
            all(&packs),
            [vec![0, 2, 6], vec![1, 3], vec![4], vec![5], vec![7]]
        );
        assert_eq!([packs.begin(0), packs.begin(1), packs.begin(5)], [0, 3, 8]);
        assert_eq!(
            [
                packs.after(0),
                packs.after(2),
                packs.after(3),
                packs.after(8)
            ],
            [0, 0, 1, 5]
        );
        assert_eq!(packs.rows(1..3), [1, 3, 4]);
        assert!(Packs::best_fit(&[], 10, VISIT).is_empty());
    }

    #[test]
    fn without_packing_the_order_is_that_of_the_shuffle() {
        let packs = Packs::single(50, VISIT);
        assert_eq!(
            (packs.len(), packs.rows(0..50)),
            (50, shuffled(42, 0, 50).as_slice())
        );
    }

    /// Returns log-normal lengths, like those of instructions: a mean of about a fifth of a pack.
    fn lengths(rows: u64, tokens: u32) -> Vec<u32> {
        let normal = |row| {
            (-2.0 * unit(2 * row).max(1e-9).ln()).sqrt()
                * (std::f64::consts::TAU * unit(2 * row + 1)).cos()
        };
        let length = |row| f64::from(tokens) / 6.0 * (0.8 * normal(row)).exp();
        (0..rows)
            .map(|row| (length(row) as u32).clamp(2, tokens))
            .collect()
    }

    #[test]
    fn packs_are_full_and_alike_from_the_first_to_the_last() {
        let lengths = lengths(20_000, 2048);
        let packs = Packs::best_fit(&lengths, 2048, VISIT);
        let tokens = |packs: &Packs, range| {
            packs
                .rows(range)
                .iter()
                .map(|row| f64::from(lengths[*row as usize]))
                .sum::<f64>()
        };
        let full = tokens(&packs, 0..packs.len()) / (2048 * packs.len()) as f64;
        assert!(full > 0.985, "{full}");
        let (half, mean) = (packs.len() / 2, |range: std::ops::Range<usize>| {
            tokens(&packs, range.clone()) / packs.rows(range).len() as f64
        });
        let (first, last) = (mean(0..half), mean(half..packs.len()));
        assert!(
            (first / last - 1.0).abs() < 0.02,
            "rows of {first} tokens, then of {last}"
        );
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_pack_and_no_pack_is_too_long(
            lengths in prop::collection::vec(1_u32..=64, 0..200),
            seed: u64,
            epoch: u64,
            is_shuffled: bool,
        ) {
            let visit = if is_shuffled { Visit::Shuffled { seed, epoch } } else { Visit::InOrder };
            let packs = Packs::best_fit(&lengths, 64, visit);
            prop_assert_eq!(&packs, &Packs::best_fit(&lengths, 64, visit));
            let mut rows = packs.rows(0..packs.len()).to_vec();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len() as u32).collect::<Vec<_>>());
            let tokens =
                |pack: &Vec<u32>| pack.iter().map(|row| lengths[*row as usize]).sum::<u32>();
            let full: Vec<u32> = all(&packs).iter().map(tokens).collect();
            prop_assert!(full.iter().all(|tokens| (1..=64).contains(tokens)), "{:?}", full);
            // Any two packs hold more than one of them could, or the rows of the later would have
            // joined the earlier.
            let mut sorted = full;
            sorted.sort_unstable();
            let exceeds = |pair: &[u32]| pair[0] + pair[1] > 64;
            prop_assert!(sorted.windows(2).take(1).all(exceeds), "{:?}", sorted);
        }

        #[test]
        fn epochs_pack_otherwise(seed: u64, epoch in 0_u64..1000) {
            let lengths = lengths(200, 512);
            let packs = |epoch| Packs::best_fit(&lengths, 512, Visit::Shuffled { seed, epoch });
            let sorted = |mut pack: Vec<u32>| {
                pack.sort_unstable();
                pack
            };
            let sets = |packs: &Packs| {
                all(packs).into_iter().map(sorted).collect::<BTreeSet<_>>()
            };
            let (one, next) = (sets(&packs(epoch)), sets(&packs(epoch + 1)));
            prop_assert!(
                one.intersection(&next).count() * 4 < one.len(),
                "who shares a pack changes"
            );
        }
    }
}
