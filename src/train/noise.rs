//! Noise on embeddings in training, `NEFTune`, Jain et al. 2023, arXiv:2310.05914: every number of
//! an embedded row of T tokens of width H is moved by a draw from [-m, m), m = alpha / sqrt(T H).
//!
//! T is the row's own length, and a draw is a hash of seed, epoch, row, place and feature, so that
//! neither the batch nor packing changes it.

use rayon::prelude::*;

use crate::data::Batch;
use crate::keyed_random::{mix, unit};

/// Keeps the draws apart from those of dropout, which have the same keys of tokens.
const SITE: u64 = u64::from_be_bytes(*b"NEFTune ");

/// Draws the noise of a batch with one key for each token, [tokens, width].
pub(super) fn drawn(batch: &Batch, keys: &[u64], width: usize, alpha: f64) -> Vec<f32> {
    let magnitudes = batch.lengths.iter().flat_map(|length| {
        let magnitude = alpha / ((*length * width) as f64).sqrt();
        std::iter::repeat_n(magnitude, *length)
    });
    let magnitudes: Vec<f64> = magnitudes.collect();
    let mut noise = vec![0_f32; keys.len() * width];
    noise
        .par_chunks_mut(width)
        .zip(keys)
        .zip(magnitudes)
        .for_each(|((row, key), magnitude)| {
            let key = mix(key ^ SITE);
            for (feature, value) in row.iter_mut().enumerate() {
                let draw = 2.0 * unit(key.wrapping_add(feature as u64)) - 1.0;
                *value = (magnitude * draw) as f32;
            }
        });
    noise
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TokenRow;

    fn batch(lengths: &[usize]) -> Batch {
        Batch::new(lengths.iter().enumerate().map(|(key, length)| {
            let row = TokenRow {
                ids: vec![1; *length],
                trained: vec![true; *length],
            };
            (key as u64, row)
        }))
    }

    #[test]
    fn draws_are_even_within_the_bound_of_their_row() {
        let (width, alpha) = (64, 5.0);
        let batch = batch(&[10, 90]);
        let keys: Vec<u64> = (0..100).map(mix).collect();
        let noise = drawn(&batch, &keys, width, alpha);
        let (short, long) = noise.split_at(10 * width);
        for (part, length) in [(short, 10.0), (long, 90.0)] {
            let bound = (alpha / (length * width as f64).sqrt()) as f32;
            let count = part.len() as f32;
            let most = part.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            assert!(most <= bound && most > 0.99 * bound, "{most} of {bound}");
            let mean = part.iter().sum::<f32>() / count;
            assert!(mean.abs() < 4.0 * bound / (3.0 * count).sqrt(), "{mean}");
            // The variance of an even draw from [-m, m) is m² / 3.
            let square = part.iter().map(|x| x * x).sum::<f32>() / count;
            assert!((3.0 * square / (bound * bound) - 1.0).abs() < 0.15);
        }
        // A row alone has the same draws.
        let alone = self::batch(&[90]);
        assert_eq!(drawn(&alone, &keys[10..], width, alpha), long);
        assert_ne!(drawn(&alone, &keys[..90], width, alpha), long);
    }
}
