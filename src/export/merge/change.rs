//! The changes to a tensor's numbers in a merge. Two rows are computed at a time, some columns
//! after the other, so that they and the rows of A that they need stay in the fastest cache.
//! Everything about a number is done while it is in a register.

use rayon::prelude::*;

use super::tally::{LANES, Lanes, Tally, lost_in_q8_0};
use crate::adapter::merge::{Delta, Replacement};
use crate::files::Float;
use crate::files::float::{Bf16, F16, F32, Number};

/// The numbers that a thread takes at a time, rounded to whole rows.
const SHARE_NUMBERS: usize = 1 << 15;
/// The numbers of a row that are computed at a time; with 16 rows of A they take 16 KiB.
const TILE: usize = 256;

/// The change of a tensor.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    /// What is added; `None` if at most the type changes.
    pub delta: Option<&'a Delta>,
    /// The rows that are replaced.
    pub rows: Option<&'a Replacement>,
    /// Numbers of a row.
    pub width: usize,
    /// The type of the old numbers.
    pub from: Float,
    /// The type of the new numbers.
    pub to: Float,
    /// Whether to measure the loss from rounding to `Q8_0`.
    pub counts_q8_0: bool,
}

impl Change<'_> {
    /// Returns whether the bytes stay the same.
    pub fn is_none(&self) -> bool {
        self.delta.is_none() && self.rows.is_none() && self.from == self.to
    }

    /// Appends whole rows, from the row `first` on, to `new`.
    pub fn block(&self, first: usize, old: &[u8], new: &mut Vec<u8>) -> Tally {
        new.resize(old.len() / self.from.bytes() * self.to.bytes(), 0);
        let rows = (SHARE_NUMBERS / self.width).max(1);
        let share = rows * self.width;
        let shares = old
            .par_chunks(share * self.from.bytes())
            .zip(new.par_chunks_mut(share * self.to.bytes()))
            .enumerate();
        // Collected first, so that they are added up in the same order every time.
        let tallies: Vec<Tally> = shares
            .map(|(index, (old, new))| self.share(first + index * rows, old, new))
            .collect();
        let mut total = Tally::default();
        for tally in &tallies {
            total.add(tally);
        }
        if self.delta.is_some() || self.rows.is_some() {
            return total;
        }
        Tally {
            not_finite: total.not_finite,
            ..Tally::default()
        }
    }

    fn share(&self, first: usize, old: &[u8], new: &mut [u8]) -> Tally {
        match self.from {
            Float::F32 => self.share_of::<F32>(first, old, new),
            Float::F16 => self.share_of::<F16>(first, old, new),
            Float::Bf16 => self.share_of::<Bf16>(first, old, new),
        }
    }

    fn share_of<From: Number>(&self, first: usize, old: &[u8], new: &mut [u8]) -> Tally {
        let old = From::chunks(old);
        match self.to {
            Float::F32 => self.rows::<From, F32>(first, old, F32::chunks_mut(new)),
            Float::F16 => self.rows::<From, F16>(first, old, F16::chunks_mut(new)),
            Float::Bf16 => self.rows::<From, Bf16>(first, old, Bf16::chunks_mut(new)),
        }
    }

    fn rows<From: Number, To: Number>(
        &self,
        first: usize,
        old: &[From::Bytes],
        new: &mut [To::Bytes],
    ) -> Tally {
        let mut tally = Tally::default();
        let factors = self.factors::<From>(first, old);
        for column in (0..self.width).step_by(TILE) {
            let mut deltas = [[0.0; TILE]; 2];
            let pairs = old
                .chunks(2 * self.width)
                .zip(new.chunks_mut(2 * self.width));
            for (index, (old, new)) in pairs.enumerate() {
                let pair = first + 2 * index;
                self.pair(pair, column, &mut deltas);
                let rows = deltas
                    .iter_mut()
                    .zip(old.chunks(self.width))
                    .zip(new.chunks_mut(self.width))
                    .enumerate();
                for (row, ((delta, old), new)) in rows {
                    // Where no row matters, the last one may be shorter.
                    let (end, start) = (old.len().min(column + TILE), old.len().min(column));
                    let (old, new) = (&old[start..end], &mut new[start..end]);
                    if let Some(factors) = &factors {
                        scale::<From>(old, delta, factors[2 * index + row]);
                    }
                    tally.add(&match self
                        .rows
                        .and_then(|rows| Some((rows.row(pair + row)?, rows.weight)))
                    {
                        Some((row, weight)) => {
                            self.counted::<From, To>(old, &row[start..end], new, |old, row| {
                                between(old, row, weight)
                            })
                        }
                        None => self.counted::<From, To>(old, delta, new, plus),
                    });
                }
            }
        }
        tally
    }

    /// Computes [`sums`], and measures what `Q8_0` would lose of them.
    fn counted<From: Number, To: Number>(
        &self,
        old: &[From::Bytes],
        given: &[f32],
        new: &mut [To::Bytes],
        together: impl Fn(f32, f32) -> f32 + Copy,
    ) -> Tally {
        let tally = sums::<From, To>(old, given, new, together);
        if !self.counts_q8_0 {
            return tally;
        }
        let old: Vec<f32> = old.iter().map(|old| From::get(*old)).collect();
        let sum: Vec<f32> = old
            .iter()
            .zip(given)
            .map(|(old, given)| together(*old, *given))
            .collect();
        Tally {
            lost_in_q8_0: lost_in_q8_0(&old, &sum),
            ..tally
        }
    }

    /// Returns the factor of each row of the sums, if rows have factors. It depends on the norm of
    /// the whole row.
    fn factors<From: Number>(&self, first: usize, old: &[From::Bytes]) -> Option<Vec<f32>> {
        let delta = self.delta.filter(|delta| delta.has_magnitudes())?;
        let rows = old.chunks(self.width).enumerate().map(|(index, old)| {
            delta.factor(first + index, || {
                let (mut squares, mut deltas) = (0.0, [[0.0; TILE]; 2]);
                for column in (0..self.width).step_by(TILE) {
                    self.pair(first + index, column, &mut deltas);
                    let sums = old[column..]
                        .iter()
                        .zip(&deltas[0])
                        .map(|(old, delta)| f64::from(From::get(*old) + delta));
                    squares += sums.map(|sum| sum * sum).sum::<f64>();
                }
                squares.sqrt()
            })
        });
        rows.collect()
    }

    /// Adds up what is added to some columns of a row and the next.
    fn pair(&self, row: usize, column: usize, deltas: &mut [[f32; TILE]; 2]) {
        let columns = TILE.min(self.width - column);
        if let Some(delta) = self.delta {
            let [upper, lower] = deltas;
            delta.pair(row, column, [&mut upper[..columns], &mut lower[..columns]]);
        }
    }
}

/// Replaces what is added to a row, so that the sum is scaled by the factor.
fn scale<From: Number>(old: &[From::Bytes], delta: &mut [f32; TILE], factor: f32) {
    for (old, delta) in old.iter().zip(delta) {
        let old = From::get(*old);
        *delta = factor * (old + *delta) - old;
    }
}

/// Returns old + delta.
#[inline]
pub(super) fn plus(old: f32, delta: f32) -> f32 {
    // -0 + 0 is 0, which is not the byte that was there.
    if delta == 0.0 { old } else { old + delta }
}

/// Returns the replacement of a number, with `weight` times the difference.
#[inline]
#[allow(clippy::float_cmp, reason = "with the weight 1 not a bit is to differ")]
pub(super) fn between(old: f32, row: f32, weight: f64) -> f32 {
    if weight == 1.0 {
        row
    } else {
        (f64::from(old) + weight * (f64::from(row) - f64::from(old))) as f32
    }
}

/// Combines old numbers with the given ones, rounds the results into `new`, and counts the changes.
fn sums<From: Number, To: Number>(
    old: &[From::Bytes],
    given: &[f32],
    new: &mut [To::Bytes],
    together: impl Fn(f32, f32) -> f32 + Copy,
) -> Tally {
    let mut lanes = Lanes::default();
    let ((olds, old), (givens, given)) = (old.as_chunks(), given[..old.len()].as_chunks());
    let (news, new) = new.as_chunks_mut();
    for ((old, given), new) in olds.iter().zip(givens).zip(news) {
        sum::<From, To>(old, given, new, &mut lanes, together);
    }
    // The rest with zeros behind it, of which nothing becomes anything else.
    let (mut last, mut more, mut sums) = (
        [From::Bytes::default(); LANES],
        [0.0; LANES],
        [To::Bytes::default(); LANES],
    );
    last[..old.len()].copy_from_slice(old);
    more[..old.len()].copy_from_slice(given);
    sum::<From, To>(&last, &more, &mut sums, &mut lanes, together);
    new.copy_from_slice(&sums[..new.len()]);
    lanes.tally((olds.len() * LANES + old.len()) as u64)
}

#[inline]
fn sum<From: Number, To: Number>(
    old: &[From::Bytes; LANES],
    given: &[f32; LANES],
    new: &mut [To::Bytes; LANES],
    lanes: &mut Lanes,
    together: impl Fn(f32, f32) -> f32,
) {
    let old = old.map(From::get);
    let sum: [f32; LANES] = std::array::from_fn(|lane| together(old[lane], given[lane]));
    *new = sum.map(To::put);
    lanes.take::<To>(&old, &sum, &new.map(To::get));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_width_and_type_are_converted_alone_and_in_pairs() {
        let floats = [Float::F32, Float::F16, Float::Bf16];
        for (from, to) in floats.iter().flat_map(|from| floats.map(|to| (*from, to))) {
            for (width, numbers) in [
                (1, 1),
                (7, 21),
                (8, 80),
                (300, 900),
                (600, 1200),
                (4096, 5000),
            ] {
                let values: Vec<f32> = (0..numbers)
                    .map(|number| number as f32 / 8.0 - 3.0)
                    .collect();
                let encoded = |float: Float, values: &[f32]| {
                    let mut bytes = vec![0; values.len() * float.bytes()];
                    float.encode(values, &mut bytes);
                    bytes
                };
                let (old, mut new) = (encoded(from, &values), vec![9; 3]);
                let tally = Change {
                    delta: None,
                    rows: None,
                    width,
                    from,
                    to,
                    counts_q8_0: false,
                }
                .block(0, &old, &mut new);
                let mut read = vec![0.0; numbers];
                from.decode(&old, &mut read);
                assert_eq!(
                    new,
                    encoded(to, &read),
                    "{from} to {to}, {numbers} numbers in rows of {width}"
                );
                assert_eq!(tally, Tally::default());
            }
        }
        let change = Change {
            delta: None,
            rows: None,
            width: 2,
            from: Float::F32,
            to: Float::F16,
            counts_q8_0: false,
        };
        assert_eq!(
            change
                .block(0, &[1e6f32.to_le_bytes(); 3].concat(), &mut Vec::new())
                .not_finite,
            3
        );
    }
}
