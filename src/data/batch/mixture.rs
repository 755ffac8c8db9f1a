//! Datasets mixed by weight: how many rows of each an epoch draws, and which. Everything follows
//! from weights, seed and epoch, so a resumed run draws what an uninterrupted run would have drawn.
//!
//! A dataset's rows have one order for the whole run, and an epoch continues where the one before
//! ended: no row is drawn again before all others of its dataset were drawn, within an epoch and
//! across epochs.

use std::cmp::Reverse;
use std::ops::Range;

use rayon::prelude::*;

use crate::data::corpus::shuffle::shuffled;
use crate::keyed_random::mix;
use crate::terms::EpochEnd;

/// Units per weight of 1: nine decimal places of a weight count.
const WEIGHT_UNITS: f64 = 1e9;
/// Number of epochs after which the rounding schedule restarts.
const MEMORY: u64 = 4096;
/// Maximum number of draws in an epoch.
const MOST_DRAWS: u64 = u32::MAX as u64;

/// A row that an epoch draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The row's place among the training rows.
    pub place: u32,
    /// How often the epoch has drawn it before.
    pub copy: u32,
}

impl From<u32> for Draw {
    fn from(place: u32) -> Self {
        Self { place, copy: 0 }
    }
}

/// Share of one dataset in the draws of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Number of its training rows.
    pub rows: u64,
    /// Number of draws in earlier epochs.
    pub before: u64,
    /// Number of draws in this epoch.
    pub draws: u64,
}

impl Quota {
    /// Returns the number of draws of rows that the epoch has drawn already.
    pub fn repeated(&self) -> u64 {
        self.draws.saturating_sub(self.rows)
    }
}

/// Datasets with their weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    parts: Vec<Part>,
    draws: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Range of its rows among the training rows.
    places: Range<u32>,
    /// Weight in [`WEIGHT_UNITS`]; 0 if it has no row.
    weight: u128,
}

impl Part {
    fn rows(&self) -> u64 {
        u64::from(self.places.end - self.places.start)
    }
}

impl Mixture {
    /// Creates a mixture of datasets: the consecutive ranges of their rows, each with its weight
    /// above 0. A dataset without rows has no share.
    pub fn new(datasets: &[(Range<u32>, f64)], end: EpochEnd) -> Self {
        let part = |(places, weight): &(Range<u32>, f64)| {
            let units = (weight * WEIGHT_UNITS).round().max(1.0) as u128;
            Part {
                places: places.clone(),
                weight: if places.is_empty() { 0 } else { units },
            }
        };
        let parts: Vec<Part> = datasets.iter().map(part).collect();
        let sum: u128 = parts.iter().map(|part| part.weight).sum();
        let weighted = || parts.iter().filter(|part| part.weight > 0);
        // Draws of an epoch in which a dataset's share is all of its rows: rounded down no row is
        // drawn twice, rounded up none is left out.
        let scaled = |part: &Part| u128::from(part.rows()) * sum;
        let draws = match end {
            EpochEnd::AllRows => parts.iter().map(|part| u128::from(part.rows())).sum(),
            EpochEnd::FirstExhausted => {
                let each = weighted().map(|part| scaled(part) / part.weight);
                each.min().unwrap_or(0)
            }
            EpochEnd::AllExhausted => {
                let each = weighted().map(|part| scaled(part).div_ceil(part.weight));
                each.max().unwrap_or(0)
            }
        };
        Self {
            parts,
            draws: u64::try_from(draws).unwrap_or(u64::MAX),
        }
    }

    /// Returns the number of rows that an epoch draws.
    pub fn draws_per_epoch(&self) -> u64 {
        self.draws
    }

    /// Whether an epoch has more draws than can be counted.
    pub fn is_too_long(&self) -> bool {
        self.draws > MOST_DRAWS
    }

    /// Returns the quota of each dataset in an epoch: its share of the weights times the draws of
    /// an epoch, rounded down or up. Which quotas are rounded up is a schedule with one slot per
    /// epoch, in which as many tasks run as shares are rounded up. By Pfair scheduling (Baruah et
    /// al. 1996, doi:10.1007/BF01940883) each task is always within one slot of its rate, so that
    /// sums over epochs also keep to the weights within a row.
    pub fn quotas(&self, epoch: u64) -> Vec<Quota> {
        let (draws, sum) = (
            u128::from(self.draws),
            self.parts
                .iter()
                .map(|part| part.weight)
                .sum::<u128>()
                .max(1),
        );
        let floors: Vec<u128> = self
            .parts
            .iter()
            .map(|part| draws * part.weight / sum)
            .collect();
        let rests: Vec<u128> = self
            .parts
            .iter()
            .map(|part| draws * part.weight % sum)
            .collect();
        let rounded_up = (rests.iter().sum::<u128>() / sum) as usize;
        // One slot more; `ups` counts the slots that each has had.
        let next = |ups: &mut [u64], slot: u64| {
            let is_due = |index: &usize| {
                rests[*index] > 0
                    && u128::from(ups[*index]) * sum / rests[*index] <= u128::from(slot)
            };
            let mut due: Vec<usize> = (0..ups.len()).filter(is_due).collect();
            due.sort_by_key(|index| urgency(ups[*index], rests[*index], sum));
            due.iter()
                .take(rounded_up)
                .for_each(|index| ups[*index] += 1);
        };
        let of_epochs = |epochs: u64| {
            let mut ups = vec![0; self.parts.len()];
            (0..epochs).for_each(|slot| next(&mut ups, slot));
            ups
        };
        let (periods, rest) = (epoch / MEMORY, epoch % MEMORY);
        let of_period = if periods > 0 {
            of_epochs(MEMORY)
        } else {
            vec![0; self.parts.len()]
        };
        let before = of_epochs(rest);
        let mut after = before.clone();
        next(&mut after, rest);
        let quota = |(index, part): (usize, &Part)| {
            let floor = floors[index] as u64;
            let ups = periods
                .wrapping_mul(of_period[index])
                .wrapping_add(before[index]);
            let draws = floor + after[index] - before[index];
            Quota {
                rows: part.rows(),
                before: epoch.wrapping_mul(floor).wrapping_add(ups),
                draws,
            }
        };
        self.parts.iter().enumerate().map(quota).collect()
    }

    /// Returns the draws of an epoch. With a seed, the draws of a dataset follow one another, to be
    /// shuffled. Without one, rows come in the order of the data, and datasets alternate by weight.
    ///
    /// # Panics
    /// The epoch is too long: see [`Mixture::is_too_long`].
    pub fn draws(&self, epoch: u64, seed: Option<u64>) -> Vec<Draw> {
        assert!(!self.is_too_long(), "an epoch of {} draws", self.draws);
        let quotas = self.quotas(epoch);
        let of_part = |(index, (part, quota)): (usize, (&Part, &Quota))| {
            let order = seed.map(|seed| shuffled(mix(seed), index as u64, part.rows() as usize));
            let draw = |nth: u64| {
                let row = (quota.before.wrapping_add(nth) % part.rows()) as u32;
                let place =
                    part.places.start + order.as_ref().map_or(row, |order| order[row as usize]);
                Draw {
                    place,
                    copy: (nth / part.rows()) as u32,
                }
            };
            (0..quota.draws)
                .into_par_iter()
                .map(draw)
                .collect::<Vec<_>>()
        };
        let of_parts: Vec<Vec<Draw>> = self
            .parts
            .iter()
            .zip(&quotas)
            .enumerate()
            .map(of_part)
            .collect();
        if seed.is_some() {
            return of_parts.concat();
        }
        // The draw `nth` of `draws` stands at (nth + 1/2) / draws of the epoch.
        let mut turns: Vec<(u32, u32)> = quotas
            .iter()
            .zip(0..)
            .flat_map(|(quota, part)| (0..quota.draws as u32).map(move |nth| (part, nth)))
            .collect();
        let draws_of = |part: u32| u128::from(quotas[part as usize].draws);
        turns.par_sort_by(|(left, one), (right, other)| {
            let (left_at, right_at) = (2 * u128::from(*one) + 1, 2 * u128::from(*other) + 1);
            (left_at * draws_of(*right))
                .cmp(&(right_at * draws_of(*left)))
                .then(left.cmp(right))
        });
        turns
            .into_iter()
            .map(|(part, nth)| of_parts[part as usize][nth as usize])
            .collect()
    }
}

/// Returns the priority of a task in PD² (Anderson and Srinivasan 2004, "Mixed Pfair/ERfair
/// scheduling") with a rate of `rest` / `sum` and `slots` slots so far: first the earlier deadline
/// of its next slot, then whether the following window overlaps, then the later end of a chain of
/// overlapping windows.
fn urgency(slots: u64, rest: u128, sum: u128) -> (u128, bool, Reverse<u128>) {
    let (next, spare) = (u128::from(slots + 1) * sum, sum - rest);
    let deadline = next.div_ceil(rest);
    let is_heavy = 2 * rest >= sum;
    let chain = if is_heavy {
        ((deadline * spare).div_ceil(sum) * sum).div_ceil(spare)
    } else {
        0
    };
    (deadline, next.is_multiple_of(rest), Reverse(chain))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Creates a mixture of datasets with these numbers of rows, one after the other.
    fn mixture(datasets: &[(u32, f64)], end: EpochEnd) -> Mixture {
        let mut start = 0;
        let placed = datasets.iter().map(|(rows, weight)| {
            start += rows;
            (start - rows..start, *weight)
        });
        Mixture::new(&placed.collect::<Vec<_>>(), end)
    }

    #[test]
    fn an_epoch_is_as_long_as_the_words_say() {
        let sizes = [(7, 0.5), (4, 0.2), (12, 0.3)];
        let length = |end| mixture(&sizes, end).draws_per_epoch();
        assert_eq!(length(EpochEnd::AllRows), 23);
        assert_eq!(
            length(EpochEnd::FirstExhausted),
            14,
            "7 rows are half of 14"
        );
        assert_eq!(length(EpochEnd::AllExhausted), 40, "12 rows are 0.3 of 40");
        assert!(mixture(&[(4_000_000, 1e-4), (1, 1.0)], EpochEnd::AllExhausted).is_too_long());
        assert_eq!(
            mixture(&[(0, 1.0), (5, 9.0)], EpochEnd::AllExhausted).draws_per_epoch(),
            5,
            "nothing has no share"
        );
    }

    /// Compares the draws with `datasets.interleave_datasets`: `tests/golden/mixing.json`, as
    /// [dataset, row].
    #[test]
    fn rows_are_drawn_as_hugging_face_interleaves_datasets() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mixing.json");
        let golden: Value =
            serde_json::from_slice(&std::fs::read(golden).expect("there")).expect("JSON");
        let sizes: Vec<u32> = serde_json::from_value(golden["sizes"].clone()).expect("numbers");
        let starts: Vec<u32> = sizes
            .iter()
            .scan(0, |sum, size| Some(std::mem::replace(sum, *sum + size)))
            .collect();
        for case in golden["cases"].as_array().expect("a list") {
            let rows: Vec<[u32; 2]> = serde_json::from_value(case["rows"].clone()).expect("pairs");
            let end = match case["stopping_strategy"].as_str() {
                Some("first_exhausted") => EpochEnd::FirstExhausted,
                Some("all_exhausted") => EpochEnd::AllExhausted,
                // Of each row once it is `AllRows` without weights, which is no mixture.
                _ => continue,
            };
            let said: Option<Vec<f64>> =
                serde_json::from_value(case["probabilities"].clone()).expect("numbers or null");
            let weights = said.clone().unwrap_or_else(|| vec![1.0; sizes.len()]);
            let datasets: Vec<(u32, f64)> = sizes.iter().copied().zip(weights).collect();
            let mixture = mixture(&datasets, end);
            let drawn = mixture.draws(0, None);
            if said.is_none() {
                // In turn, to the row.
                let placed: Vec<u32> = rows
                    .iter()
                    .map(|[source, row]| starts[*source as usize] + row)
                    .collect();
                assert_eq!(
                    drawn.iter().map(|draw| draw.place).collect::<Vec<_>>(),
                    placed,
                    "{case}"
                );
                continue;
            }
            // There the datasets are drawn at random, so that given the draws the rows of each and
            // the end are compared.
            for (source, size) in (0..).zip(&sizes) {
                let theirs: Vec<u32> = rows
                    .iter()
                    .filter(|[from, _]| *from == source)
                    .map(|[_, row]| *row)
                    .collect();
                let all = Mixture::new(&[(0..*size, 1.0)], EpochEnd::AllRows);
                let epochs = (0..).flat_map(|epoch| all.draws(epoch, None));
                let ours: Vec<u32> = epochs.map(|draw| draw.place).take(theirs.len()).collect();
                assert_eq!(ours, theirs, "dataset {source} of {case}");
            }
            let exhausted = mixture
                .quotas(0)
                .iter()
                .filter(|quota| quota.draws >= quota.rows)
                .count();
            let expected = if end == EpochEnd::FirstExhausted {
                1
            } else {
                sizes.len()
            };
            assert_eq!(exhausted, expected, "{case}");
        }
    }

    #[test]
    fn a_dataset_that_is_drawn_less_comes_whole_before_any_row_of_it_comes_again() {
        let mixture = mixture(&[(10, 1.0), (30, 3.0), (5, 4.0)], EpochEnd::AllRows);
        let mut times = BTreeMap::new();
        for epoch in 0..16 {
            for draw in mixture.draws(epoch, Some(7)) {
                *times.entry(draw.place).or_insert(0_u32) += 1;
            }
            for dataset in [0..10, 10..40, 40..45] {
                let counts: Vec<u32> = dataset
                    .map(|place| times.get(&place).copied().unwrap_or(0))
                    .collect();
                let (least, most) = (
                    counts.iter().min().expect("rows"),
                    counts.iter().max().expect("rows"),
                );
                assert!(most - least <= 1, "after epoch {epoch}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_late_epoch_is_found_at_once() {
        let mixture = mixture(&[(10, 1.0), (30, 3.3), (5, 0.7)], EpochEnd::AllRows);
        let [before, at] = [3 * MEMORY - 1, 3 * MEMORY].map(|epoch| mixture.quotas(epoch));
        for (before, at) in before.iter().zip(&at) {
            assert_eq!(before.before + before.draws, at.before);
        }
        assert_eq!(mixture.draws(u64::MAX, Some(1)).len(), 45);
    }

    fn datasets() -> impl Strategy<Value = Vec<(u32, f64)>> {
        prop::collection::vec(
            (
                1_u32..60,
                prop_oneof![
                    (1_u32..1000).prop_map(|weight| f64::from(weight) / 1e3),
                    (1_u32..9).prop_map(f64::from)
                ],
            ),
            1..12,
        )
    }

    proptest! {
        #[test]
        fn shares_are_within_one_row_of_the_weights_in_each_epoch_and_in_all_together(
            datasets in datasets(),
            end in prop::sample::select(vec![EpochEnd::AllRows, EpochEnd::FirstExhausted]),
        ) {
            let mixture = mixture(&datasets, end);
            let sum: f64 = datasets.iter().map(|(_, weight)| weight).sum();
            let draws = mixture.draws_per_epoch();
            let mut totals = vec![0; datasets.len()];
            for epoch in 0..40 {
                let quotas = mixture.quotas(epoch);
                prop_assert_eq!(quotas.iter().map(|quota| quota.draws).sum::<u64>(), draws);
                for (index, (quota, (_, weight))) in quotas.iter().zip(&datasets).enumerate() {
                    prop_assert_eq!(quota.before, totals[index]);
                    totals[index] += quota.draws;
                    let share = weight / sum * draws as f64;
                    prop_assert!(
                        (quota.draws as f64 - share).abs() < 1.0 + 1e-6,
                        "epoch {}: {:?}, a share of {}",
                        epoch,
                        quota,
                        share
                    );
                    let together = share * (epoch + 1) as f64;
                    prop_assert!(
                        (totals[index] as f64 - together).abs() < 1.0 + 1e-6,
                        "to epoch {}: {} of {}",
                        epoch,
                        totals[index],
                        together
                    );
                }
            }
        }

        #[test]
        fn an_epoch_repeats_a_row_only_where_a_dataset_has_too_few(
            datasets in datasets(),
            epoch in 0_u64..20,
            seed: u64,
        ) {
            let mixture = mixture(&datasets, EpochEnd::AllRows);
            let (drawn, quotas) = (mixture.draws(epoch, Some(seed)), mixture.quotas(epoch));
            prop_assert_eq!(&drawn, &mixture.draws(epoch, Some(seed)));
            let mut start = 0;
            for ((rows, _), quota) in datasets.iter().zip(quotas) {
                let places = start..start + rows;
                let (first, again): (Vec<&Draw>, Vec<&Draw>) = drawn
                    .iter()
                    .filter(|draw| places.contains(&draw.place))
                    .partition(|draw| draw.copy == 0);
                prop_assert_eq!((first.len() + again.len()) as u64, quota.draws);
                prop_assert_eq!(again.len() as u64, quota.repeated());
                let mut pairs: Vec<(u32, u32)> = first
                    .iter()
                    .chain(&again)
                    .map(|draw| (draw.place, draw.copy))
                    .collect();
                pairs.sort_unstable();
                pairs.dedup();
                prop_assert_eq!(pairs.len() as u64, quota.draws, "a copy is counted once");
                start += rows;
            }
        }

        #[test]
        fn without_shuffling_the_beginning_of_an_epoch_keeps_to_the_weights(
            datasets in datasets(),
        ) {
            let mixture = mixture(&datasets, EpochEnd::AllRows);
            let (drawn, quotas) = (mixture.draws(0, None), mixture.quotas(0));
            let mut starts = vec![0];
            starts.extend(datasets.iter().scan(0, |sum, (rows, _)| {
                *sum += rows;
                Some(*sum)
            }));
            let mut taken = vec![0_u64; datasets.len()];
            for (nth, draw) in drawn.iter().enumerate() {
                taken[starts.partition_point(|start| *start <= draw.place) - 1] += 1;
                for (taken, quota) in taken.iter().zip(&quotas) {
                    let due = quota.draws as f64 * (nth + 1) as f64 / drawn.len() as f64;
                    prop_assert!((*taken as f64 - due).abs() <= datasets.len() as f64 / 2.0 + 1.0);
                }
            }
        }
    }
}
