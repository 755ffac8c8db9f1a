//! Detection of rows that are nearly the same as an earlier one, without comparing all pairs.
//!
//! A row is the set of its shingles, runs of [`SHINGLE`] tokens. Two rows are near-duplicates if
//! the Jaccard similarity of their sets, |A ∩ B| / |A ∪ B|, reaches the threshold. `MinHash`
//! (Broder 1997, doi:10.1109/SEQUEN.1997.666900) proposes the pairs to compare: those that agree in
//! one of [`BANDS`] bands of [`BAND_HASHES`] minima each. A pair with similarity s is proposed with
//! probability 1 - (1 - s⁴)³²: 0.988 at 0.6 and 0.9998 at 0.7. The similarity of each proposed pair
//! is then computed exactly, so that no pair below the threshold is taken.
//!
//! Shingles that more than one row in fifty has are the frame of a dataset, such as a system prompt
//! or the wording of its questions. They are left out of the sets, so that rows are not alike only
//! because of what all of them share.
//!
//! Rows are read from the token cache as they are needed. Memory holds 137 bytes per row: a link
//! for each band, and the row's place while a band is sorted. While frames are looked for, it also
//! holds the shingles of [`SAMPLE`] rows.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use crate::keyed_random::mix;
use crate::report::{Event, Reporter};

/// Number of tokens in a shingle.
pub const SHINGLE: usize = 3;
/// Number of bands in a signature.
pub const BANDS: usize = 32;
/// Number of minima in a band.
pub const BAND_HASHES: usize = 4;
/// Number of rows, at equal distances, in which frames are looked for.
pub const SAMPLE: usize = 4096;
/// A shingle is part of a frame only if more than one in this many sampled rows has it.
const FRAME_SHARE: usize = 50;
/// A shingle is part of a frame only if more than this many sampled rows have it.
const FRAME_ROWS: usize = 20;
/// Number of rows between two progress reports.
const REPORTED_ROWS: usize = 1 << 14;
/// Marks the end of a chain of links: no earlier row.
const NONE: u32 = u32::MAX;

/// A near-duplicate that is left out, and the earlier row that it nearly equals, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The later row.
    pub row: u32,
    /// The first similar earlier row that is kept.
    pub of: u32,
}

/// Returns the near-duplicates among `count` rows (fewer than 2^32), ascending: rows that are
/// nearly the same as an earlier row that is not a near-duplicate itself. `ids` returns the tokens
/// of a row by its place; `threshold` is above 0.
pub fn near_duplicates(
    count: usize,
    ids: impl Fn(usize) -> Vec<u32> + Sync,
    threshold: f64,
    report: Reporter,
) -> Vec<Pair> {
    let sets = Sets {
        frame: frame(count, &ids),
        ids,
    };
    let mut links: Vec<[u32; BANDS]> = (0..count)
        .into_par_iter()
        .map(|place| bands(&sets.of(place)))
        .collect();
    link_earlier(&mut links);
    let (mut is_kept, mut found, mut likely) = (vec![false; count], Vec::new(), Vec::new());
    for place in 0..count {
        if place % REPORTED_ROWS == 0 || place + 1 == count {
            report(Event::Progress {
                what: "near-duplicates".to_owned(),
                done: place as u64 + 1,
                total: count as u64,
            });
        }
        likely.clear();
        for band in 0..BANDS {
            let mut at = earlier(&mut links, &is_kept, place, band);
            while at != NONE {
                likely.push(at);
                at = earlier(&mut links, &is_kept, at as usize, band);
            }
        }
        let own = if likely.is_empty() {
            Vec::new()
        } else {
            sets.of(place)
        };
        match sets.first_alike(&own, &mut likely, threshold) {
            Some(of) => found.push(Pair {
                row: place as u32,
                of,
            }),
            None => is_kept[place] = true,
        }
    }
    found
}

/// Returns the rows after the first `first` of `count` that are near-duplicates of one of those,
/// ascending; other arguments as for [`near_duplicates`]. It takes 256 bytes of memory for each of
/// the first rows and none for the others.
pub fn near_duplicates_of(
    first: usize,
    count: usize,
    ids: impl Fn(usize) -> Vec<u32> + Sync,
    threshold: f64,
) -> Vec<Pair> {
    let sets = Sets {
        frame: frame(count, &ids),
        ids,
    };
    let of_first: Vec<[u32; BANDS]> = (0..first)
        .into_par_iter()
        .map(|place| bands(&sets.of(place)))
        .collect();
    let in_band = |band: usize| {
        let mut order: Vec<u64> = of_first
            .iter()
            .zip(0..)
            .map(|(hashes, place)| u64::from(hashes[band]) << 32 | place)
            .collect();
        order.sort_unstable();
        order
    };
    let index: Vec<Vec<u64>> = (0..BANDS).into_par_iter().map(in_band).collect();
    let pair = |place: usize| {
        let own = sets.of(place);
        let mut likely: Vec<u32> = Vec::new();
        for (hash, order) in bands(&own).into_iter().zip(&index) {
            let start = order.partition_point(|entry| entry >> 32 < u64::from(hash));
            likely.extend(
                order[start..]
                    .iter()
                    .take_while(|entry| *entry >> 32 == u64::from(hash))
                    .map(|entry| *entry as u32),
            );
        }
        Some(Pair {
            row: place as u32,
            of: sets.first_alike(&own, &mut likely, threshold)?,
        })
    };
    (first..count).into_par_iter().filter_map(pair).collect()
}

/// Returns the next earlier kept row with the same hash in a band. Links to rows that are not kept
/// are shortened, so that each is passed once.
fn earlier(links: &mut [[u32; BANDS]], is_kept: &[bool], place: usize, band: usize) -> u32 {
    let mut at = links[place][band];
    while at != NONE && !is_kept[at as usize] {
        at = links[at as usize][band];
    }
    links[place][band] = at;
    at
}

/// Replaces the hash of each band by the place of the next earlier row with the same hash.
fn link_earlier(links: &mut [[u32; BANDS]]) {
    for band in 0..BANDS {
        let entry = |place: usize| u64::from(links[place][band]) << 32 | place as u64;
        let mut order: Vec<u64> = (0..links.len()).into_par_iter().map(entry).collect();
        order.par_sort_unstable();
        let mut before = None;
        for (hash, place) in order.into_iter().map(|entry| (entry >> 32, entry as u32)) {
            links[place as usize][band] = before
                .filter(|(other, _)| *other == hash)
                .map_or(NONE, |(_, earlier)| earlier);
            before = Some((hash, place));
        }
    }
}

/// Rows as sets of shingles.
struct Sets<F> {
    ids: F,
    frame: HashSet<u64>,
}

impl<F: Fn(usize) -> Vec<u32>> Sets<F> {
    /// Returns the sorted hashes of a row's shingles without the frame. A row that is nothing but
    /// frame keeps all of them.
    fn of(&self, place: usize) -> Vec<u64> {
        let all = shingles(&(self.ids)(place));
        let own: Vec<u64> = all
            .iter()
            .copied()
            .filter(|shingle| !self.frame.contains(shingle))
            .collect();
        if own.is_empty() { all } else { own }
    }

    /// Returns the first of the likely rows whose similarity reaches the threshold.
    fn first_alike(&self, own: &[u64], likely: &mut Vec<u32>, threshold: f64) -> Option<u32> {
        likely.sort_unstable();
        likely.dedup();
        likely
            .iter()
            .copied()
            .find(|other| jaccard(own, &self.of(*other as usize)) >= threshold)
    }
}

/// Returns the shingles that many rows share.
fn frame(count: usize, ids: &impl Fn(usize) -> Vec<u32>) -> HashSet<u64> {
    let sampled = count.min(SAMPLE);
    let mut rows: HashMap<u64, usize> = HashMap::new();
    for nth in 0..sampled {
        for shingle in shingles(&ids(nth * count / sampled)) {
            *rows.entry(shingle).or_default() += 1;
        }
    }
    let is_frame = |rows: usize| rows > FRAME_ROWS && rows * FRAME_SHARE > sampled;
    rows.into_iter()
        .filter(|(_, rows)| is_frame(*rows))
        .map(|(shingle, _)| shingle)
        .collect()
}

/// Returns the hashes of the runs of [`SHINGLE`] tokens, sorted and each once. A shorter row has
/// one hash of all its tokens.
fn shingles(ids: &[u32]) -> Vec<u64> {
    let hash = |tokens: &[u32]| {
        tokens
            .iter()
            .fold(0, |hash, token| mix(hash ^ u64::from(*token)))
    };
    let mut hashes: Vec<u64> = ids
        .windows(SHINGLE.min(ids.len()).max(1))
        .map(hash)
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Returns a hash of the minima of each band.
fn bands(set: &[u64]) -> [u32; BANDS] {
    std::array::from_fn(|band| {
        let minimum = |nth: usize| {
            let key = mix((band * BAND_HASHES + nth) as u64);
            // An odd factor permutes 64 bits.
            set.iter()
                .map(|shingle| (shingle ^ key).wrapping_mul(mix(key) | 1))
                .min()
                .unwrap_or(0)
        };
        ((0..BAND_HASHES).fold(0, |hash, nth| mix(hash ^ minimum(nth))) >> 32) as u32
    })
}

/// Returns the Jaccard similarity of two sorted sets.
fn jaccard(one: &[u64], other: &[u64]) -> f64 {
    let (mut left, mut right, mut shared) = (0, 0, 0);
    while left < one.len() && right < other.len() {
        let (a, b) = (one[left], other[right]);
        (left, right, shared) = (
            left + usize::from(a <= b),
            right + usize::from(b <= a),
            shared + usize::from(a == b),
        );
    }
    shared as f64 / (one.len() + other.len() - shared).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed_random::unit;

    fn places(pairs: Vec<Pair>) -> Vec<(u32, u32)> {
        pairs
            .into_iter()
            .map(|Pair { row, of }| (row, of))
            .collect()
    }

    fn found(rows: &[Vec<u32>], threshold: f64) -> Vec<(u32, u32)> {
        places(near_duplicates(
            rows.len(),
            |place| rows[place].clone(),
            threshold,
            &|_| {},
        ))
    }

    fn of_first(rows: &[Vec<u32>], first: usize, threshold: f64) -> Vec<(u32, u32)> {
        places(near_duplicates_of(
            first,
            rows.len(),
            |place| rows[place].clone(),
            threshold,
        ))
    }

    fn sentence(seed: u64, tokens: u64) -> Vec<u32> {
        (0..tokens)
            .map(|token| (unit(seed << 32 | token) * 5e4) as u32)
            .collect()
    }

    fn with(mut ids: Vec<u32>, place: usize, token: u32) -> Vec<u32> {
        ids[place] = token;
        ids
    }

    #[test]
    fn a_later_row_with_a_token_changed_is_found_and_the_first_stays() {
        let a = sentence(1, 60);
        let rows = [
            a.clone(),
            sentence(2, 60),
            with(a.clone(), 30, 7),
            with(with(a.clone(), 30, 7), 10, 8),
            a,
        ];
        assert_eq!(found(&rows, 0.6), [(2, 0), (3, 0), (4, 0)]);
        assert_eq!(
            found(&rows, 0.9),
            [(2, 0), (4, 0)],
            "55 of 61 shingles, and 52 of 64"
        );
        assert_eq!(of_first(&rows, 2, 0.6), [(2, 0), (3, 0), (4, 0)]);
        assert_eq!(of_first(&rows[2..], 1, 0.99), [] as [(u32, u32); 0]);
        assert_eq!(found(&[], 0.6), []);
    }

    #[test]
    fn what_all_rows_share_makes_none_alike() {
        let framed = |answer: Vec<u32>| [sentence(0, 400), answer].concat();
        let rows: Vec<Vec<u32>> = (1..=100).map(|row| framed(sentence(row, 12))).collect();
        assert_eq!(found(&rows, 0.6), []);
        let copies = [rows, vec![framed(with(sentence(40, 12), 0, 1))]].concat();
        assert_eq!(found(&copies, 0.6), [(100, 39)]);
    }

    #[test]
    fn short_rows_are_compared_whole() {
        assert_eq!(
            found(&[vec![1, 2], vec![1, 3], vec![1, 2], vec![4]], 0.6),
            [(2, 0)]
        );
    }

    #[test]
    fn many_copies_of_one_row_take_no_time_each() {
        let rows = vec![sentence(1, 20); 20_000];
        assert_eq!(found(&rows, 0.6).len(), 19_999);
    }

    /// Compares every pair, as a check of the pairs that the bands propose.
    #[test]
    fn nearly_every_pair_above_the_threshold_is_found_and_none_below() {
        let mut rows: Vec<Vec<u32>> = (1..=300).map(|row| sentence(row, 40)).collect();
        for row in 0..300_usize {
            let edits = row % 6;
            rows.push((0..edits).fold(rows[row].clone(), |ids, edit| {
                with(ids, (row + 7 * edit) % 40, edit as u32)
            }));
        }
        let sets: Vec<Vec<u64>> = rows.iter().map(|ids| shingles(ids)).collect();
        let alike = |row: usize, of: usize| jaccard(&sets[row], &sets[of]) >= 0.6;
        let found = found(&rows, 0.6);
        assert!(
            found
                .iter()
                .all(|(row, of)| alike(*row as usize, *of as usize))
        );
        let expected = (300..600)
            .filter(|row| (0..300).any(|of| alike(*row, of)))
            .count();
        let missed = expected - found.len();
        assert!(
            expected > 150 && missed * 50 <= expected,
            "{missed} of {expected} missed"
        );
    }
}
