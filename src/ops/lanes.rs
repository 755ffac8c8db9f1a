//! Sums and maxima over a row in lanes. Their order does not depend on the registers, so that every
//! level sums in the same order.
//!
//! Here, and in every loop that is compiled for a level, the body stands within the loop. A closure
//! may not be inlined, and is then compiled for the build's target, with a call of the C library
//! for each fused multiply-add.

use super::simd::Arithmetic;

/// Numbers that are processed side by side.
pub(super) const LANES: usize = 16;

/// Returns the rest of a row after its last whole run of lanes, padded. Padding keeps the sums in
/// registers: an index that is known only at run time would put them into memory.
#[inline(always)]
pub(super) fn padded(rest: &[f32], fill: f32) -> [f32; LANES] {
    let mut values = [fill; LANES];
    values[..rest.len()].copy_from_slice(rest);
    values
}

/// Returns the sum over lanes, by halves.
#[inline(always)]
pub(super) fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Returns Σ x y.
#[inline(always)]
pub(super) fn sum_of_products<A: Arithmetic>(x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, y) in x.iter().zip(y) {
        add_products::<A>(&mut sums, x, y);
    }
    add_products::<A>(&mut sums, &padded(x_rest, 0.0), &padded(y_rest, 0.0));
    total(sums)
}

#[inline(always)]
fn add_products<A: Arithmetic>(sums: &mut [f32; LANES], x: &[f32; LANES], y: &[f32; LANES]) {
    for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
        *sum = A::multiply_add(*x, *y, *sum);
    }
}

/// Returns the largest number; -∞ for an empty row. NaN is ignored.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let (x, rest) = x.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for x in x {
        raise(&mut most, x);
    }
    raise(&mut most, &padded(rest, f32::NEG_INFINITY));
    most.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn raise(most: &mut [f32; LANES], x: &[f32; LANES]) {
    for (most, x) in most.iter_mut().zip(x) {
        *most = if *x > *most { *x } else { *most };
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{at_every_level, vectorised};
    use super::*;

    vectorised! {
        fn both<'a, A>(x: &'a [f32], y: &'a [f32]) -> (f32, f32) {
            (sum_of_products::<A>(x, y), largest(x))
        }
    }

    #[test]
    fn every_level_sums_what_f64_does() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let numbers = |step: f32| {
                (0..length)
                    .map(|index| (index as f32 * step).sin())
                    .collect::<Vec<f32>>()
            };
            let (x, y) = (numbers(0.37), numbers(0.73));
            let exact: f64 = x
                .iter()
                .zip(&y)
                .map(|(x, y)| f64::from(*x) * f64::from(*y))
                .sum();
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (sum, largest) in at_every_level(|| both(&x, &y)) {
                assert!(
                    (f64::from(sum) - exact).abs() < 1e-5,
                    "{sum} of {length}, expected {exact}"
                );
                assert!(largest.total_cmp(&most).is_eq());
            }
        }
    }
}
