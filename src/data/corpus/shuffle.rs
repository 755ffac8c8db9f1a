//! The division into training and validation rows, and the order in which an epoch visits them.
//! Both depend on their arguments alone, so a resumed run, or one on another machine, sees the same
//! rows in the same order.

use rayon::prelude::*;

use crate::fault::{Exit, Explain};
use crate::keyed_random::mix;
use crate::terms::Holdout;

/// The training and validation rows of a corpus: row indexes, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Rows that are trained on.
    pub training: Vec<u32>,
    /// Rows that are only used for validation.
    pub validation: Vec<u32>,
}

/// Error of a split that leaves nothing to train on.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// No row was kept.
    #[error("no rows to train on: none of the datasets' rows was kept")]
    Empty,
    /// Validation takes every row.
    #[error("no rows to train on: validation takes {rows} of {rows} rows")]
    AllHeldOut {
        /// Number of all rows.
        rows: usize,
    },
}

impl Explain for SplitError {
    fn exit(&self) -> Exit {
        Exit::Input
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Empty => "see which rows were left out and why, and raise \
                `training.sequence_len` if they are too long"
                .into(),
            Self::AllHeldOut { .. } => "lower `evaluation.val_set_size`; equal rows always go to \
                the same side"
                .into(),
        })
    }
}

impl Split {
    /// Uses all rows for validation only.
    pub fn validation_only(rows: usize) -> Self {
        Self {
            training: Vec::new(),
            validation: (0..).take(rows).collect(),
        }
    }

    /// Checks that there is something to train on.
    ///
    /// # Errors
    /// No row was kept, or validation takes them all.
    pub fn check(&self) -> Result<(), SplitError> {
        match (self.training.is_empty(), self.validation.len()) {
            (false, _) => Ok(()),
            (true, 0) => Err(SplitError::Empty),
            (true, rows) => Err(SplitError::AllHeldOut { rows }),
        }
    }
}

/// Chooses the validation rows: those with the smallest contents, which are hashes. The choice
/// depends on no seed and no order, and little on which other rows there are. Equal rows are never
/// on both sides; where they force it, a few more rows validate.
pub fn split(contents: &[u64], holdout: Holdout) -> Split {
    let rows = contents.len();
    let wanted = match holdout {
        Holdout::Share(share) if share > 0.0 => ((rows as f64 * share).round() as usize).max(1),
        Holdout::Share(_) => 0,
        Holdout::Rows(wanted) => wanted,
    };
    let last = wanted
        .min(rows)
        .checked_sub(1)
        .map(|last| *contents.to_vec().select_nth_unstable(last).1);
    let (validation, training): (Vec<u32>, Vec<u32>) =
        (0..rows as u32).partition(|&row| last.is_some_and(|last| contents[row as usize] <= last));
    Split {
        training,
        validation,
    }
}

/// Returns the order of `count` rows in an epoch, sorted by a random draw keyed by seed, epoch and
/// index. Within an epoch the draws are a bijection of the index, so no two rows tie.
pub fn shuffled(seed: u64, epoch: u64, count: usize) -> Vec<u32> {
    let key = mix(mix(seed) ^ epoch);
    let mut order: Vec<u32> = (0..count as u32).collect();
    // Drawing again at each comparison takes a few nanoseconds; the draws of all rows would take
    // four times the order's memory.
    order.par_sort_unstable_by_key(|&row| mix(key ^ u64::from(row)));
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_place_is_equally_likely() {
        // Row 0 over 4000 epochs of 8 rows: each place 500 times, standard deviation 21.
        let mut places = [0; 8];
        for epoch in 0..4000 {
            places[shuffled(42, epoch, 8)
                .iter()
                .position(|&row| row == 0)
                .expect("a permutation")] += 1;
        }
        assert!(
            places.iter().all(|times| (395..605).contains(times)),
            "{places:?}"
        );
    }

    #[test]
    fn nothing_left_to_train_on_is_an_error() {
        assert!(matches!(
            split(&[], Holdout::Rows(0)).check(),
            Err(SplitError::Empty)
        ));
        assert!(matches!(
            split(&[1, 2], Holdout::Rows(2)).check(),
            Err(SplitError::AllHeldOut { rows: 2 })
        ));
        assert!(matches!(
            split(&[1, 1, 1], Holdout::Share(0.01)).check(),
            Err(SplitError::AllHeldOut { rows: 3 })
        ));
    }

    #[test]
    fn distinct_rows_give_the_number_asked_for() {
        let contents: Vec<u64> = (0..1000).map(mix).collect();
        for (holdout, expected) in [
            (Holdout::Rows(0), 0),
            (Holdout::Share(0.0), 0),
            (Holdout::Rows(37), 37),
            (Holdout::Share(0.05), 50),
            (Holdout::Share(1e-9), 1),
        ] {
            let split = split(&contents, holdout);
            assert_eq!(
                (split.validation.len(), split.training.len()),
                (expected, 1000 - expected),
                "{holdout:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn an_epoch_visits_every_row_once_and_is_repeatable(
            seed: u64,
            epoch: u64,
            count in 0_usize..200,
        ) {
            let order = shuffled(seed, epoch, count);
            prop_assert_eq!(&order, &shuffled(seed, epoch, count));
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..count as u32).collect::<Vec<_>>());
        }

        #[test]
        fn epochs_and_seeds_differ(seed: u64, epoch in 0_u64..1000) {
            let order = shuffled(seed, epoch, 64);
            prop_assert_ne!(&order, &shuffled(seed, epoch + 1, 64));
            prop_assert_ne!(&order, &shuffled(seed.wrapping_add(1), epoch, 64));
        }

        #[test]
        fn duplicates_never_straddle(
            contents in prop::collection::vec(0_u64..20, 1..60),
            wanted in 0_usize..30,
        ) {
            let Split { training, validation } = split(&contents, Holdout::Rows(wanted));
            prop_assert_eq!(training.len() + validation.len(), contents.len());
            prop_assert!(validation.len() >= wanted.min(contents.len()));
            let side = |rows: &[u32]| {
                let contents = rows.iter().map(|&row| contents[row as usize]);
                contents.collect::<std::collections::BTreeSet<_>>()
            };
            prop_assert!(side(&training).is_disjoint(&side(&validation)));
        }
    }
}
