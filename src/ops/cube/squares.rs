//! Σ x² of pieces of a flat row, each in units of the piece's largest number, so that no square
//! exceeds the range of f32.

use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::flat::PIECE;
use super::{cubes, empty, total};

/// Units of the cube for a piece.
const UNITS: u32 = 256;

/// Computes, for every piece, the largest |x| and the sum of (x / largest)².
#[cube(launch)]
fn pieces_of(
    x: &[f32],
    pieces: &mut [f32],
    numbers: u32,
    #[comptime] size: usize,
    #[comptime] units: usize,
) {
    let (piece, unit) = (CUBE_POS, UNIT_POS as usize);
    if piece * size >= numbers as usize {
        terminate!();
    }
    let (mut largest, mut sums) = (
        Shared::<[f32]>::new_slice(units),
        Shared::<[f32]>::new_slice(units),
    );
    let (start, end) = (piece * size, min(piece * size + size, numbers as usize));
    let mut most = 0.0f32;
    let mut at = start + unit;
    while at < end {
        most = max(most, x[at].abs());
        at += units;
    }
    largest[unit] = most;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            largest[unit] = max(largest[unit], largest[unit + half]);
        }
        sync_cube();
        half /= 2;
    }
    let mut most = largest[0];
    if most == 0.0f32 {
        most = 1.0f32;
    }
    let mut sum = 0.0f32;
    let mut at = start + unit;
    while at < end {
        let share = x[at] / most;
        sum += share * share;
        at += units;
    }
    let sum = total(sum, &mut sums);
    if unit == 0 {
        pieces[2 * piece] = most;
        pieces[2 * piece + 1] = sum;
    }
}

/// Returns Σ x² of pieces of [`PIECE`] numbers.
pub(in crate::ops) fn sums_of_squares(x: CubeTensor) -> Vec<f64> {
    let x = into_contiguous(x);
    let numbers = x.shape().num_elements();
    let count = numbers.div_ceil(PIECE);
    if count == 0 {
        return Vec::new();
    }
    let (client, pieces) = (x.client.clone(), empty(&x, [2 * count], DType::F32));
    let (x, to) = (x.into_buffer_arg(), pieces.clone().into_buffer_arg());
    pieces_of::launch(
        &client,
        cubes(count),
        CubeDim::new_1d(UNITS),
        x,
        to,
        numbers as u32,
        PIECE,
        UNITS as usize,
    );
    let pieces: Vec<f64> = Tensor::<1>::from_primitive::<Cube>(pieces)
        .into_data()
        .iter()
        .collect();
    pieces
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[most, sum]| most * most * sum)
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::tests::{device, drawn, tensor};
    use crate::ops::sum_of_squares;

    #[test]
    fn they_are_those_of_the_cpu_and_repeat_bit_for_bit() {
        let Some(device) = device() else { return };
        for (count, range) in [
            (1, 1.0),
            (4095, 1e-3),
            (4096, 3e30),
            (100_003, 1e-30),
            (10_000, 0.0),
        ] {
            let numbers = drawn(7, count, range);
            let [ours, exact] = [&device, &Device::flex()]
                .map(|device| sum_of_squares(&tensor(&numbers, [count], device)));
            assert!(
                (ours - exact).abs() <= 2e-6 * exact,
                "{count}: {ours}, expected {exact}"
            );
            assert_eq!(
                ours.to_bits(),
                sum_of_squares(&tensor(&numbers, [count], &device)).to_bits()
            );
        }
        for open in [f32::NAN, f32::INFINITY] {
            let mut numbers = drawn(7, 5000, 1.0);
            numbers[4500] = open;
            assert!(!sum_of_squares(&tensor(&numbers, [5000], &device)).is_finite());
        }
    }
}
