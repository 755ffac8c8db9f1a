//! Random numbers as functions of their keys. There is no stream and no order of drawing, and a
//! resumed run has no state to restore.

/// The constant that SplitMix64 adds to its state for each draw.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the draw of SplitMix64 for the state `key`, Steele et al. 2014,
/// <https://doi.org/10.1145/2660193.2660195>: a bijection of 64 bits with good avalanche.
pub fn mix(key: u64) -> u64 {
    let z = key.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns a number in [0, 1) with 53 random bits.
pub fn unit(key: u64) -> f64 {
    (mix(key) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draws_are_those_of_splitmix64() {
        // Outputs for state 0 of the reference implementation,
        // https://prng.di.unimi.it/splitmix64.c
        assert_eq!(
            [0, GOLDEN].map(mix),
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]
        );
    }
}
