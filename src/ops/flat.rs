//! Sums over a flat row of numbers: gradients added in place, and squares summed in a fixed order.

use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::host::Host;

/// Numbers per piece of work of a thread. Sums are made of pieces of this size, so that they do not
/// depend on the number of threads.
pub(super) const PIECE: usize = 1 << 12;
/// Sums that run side by side within a piece.
const LANES: usize = 8;

/// Adds every part to `sum` at its place; on the CPU in place, where no other handle holds `sum`.
///
/// # Shapes
/// `sum` [n]; each part is as long as its place.
pub fn add_at(sum: Tensor<1>, parts: Vec<(Range<usize>, Tensor<1>)>) -> Tensor<1> {
    parts.into_iter().fold(sum, |sum, (place, part)| {
        let Some(part) = Host::of(part.clone()) else {
            let whole = sum.clone().slice([place.clone()]) + part;
            return sum.slice_assign([place], whole);
        };
        let mut sum = Host::of(sum).expect("beside its parts");
        let pieces = sum.numbers_mut()[place]
            .par_chunks_mut(PIECE)
            .zip_eq(part.numbers().par_chunks(PIECE));
        pieces.for_each(|(sum, part)| {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        });
        sum.into_tensor()
    })
}

/// Returns Σ x² in f64, in an order that does not depend on the number of threads.
pub fn sum_of_squares(x: &Tensor<1>) -> f64 {
    let sums: Vec<f64> = match Host::of(x.clone()) {
        Some(x) => x.numbers().par_chunks(PIECE).map(squares).collect(),
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        None => super::cube::squares::sums_of_squares(
            x.clone()
                .try_into_primitive::<burn::backend::Cube>()
                .expect("a GPU's, for it is not the CPU's"),
        ),
        #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
        None => unreachable!("this build has no device but the CPU"),
    };
    sums.into_iter().fold(0.0, |sum, piece| sum + piece)
}

/// Returns Σ x² of a piece: lanes side by side, added in order at the end.
fn squares(piece: &[f32]) -> f64 {
    let (rows, rest) = piece.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for row in rows {
        for (lane, value) in lanes.iter_mut().zip(row) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    let rest = rest
        .iter()
        .map(|value| f64::from(*value) * f64::from(*value));
    lanes
        .into_iter()
        .chain(rest)
        .fold(0.0, |sum, square| sum + square)
}

/// Returns Σ x² of pieces, each in f32.
#[cfg(test)]
fn sums_on_device(x: &Tensor<1>) -> Vec<f64> {
    let count = x.dims()[0];
    let whole = count - count % PIECE;
    let squares = |place: Range<usize>| x.clone().slice([place]).square();
    let pieces = (whole > 0).then(|| {
        squares(0..whole)
            .reshape([whole / PIECE, PIECE])
            .sum_dim(1)
            .reshape([-1])
    });
    let rest = (whole < count).then(|| squares(whole..count).sum());
    let sums = pieces.into_iter().chain(rest);
    sums.flat_map(|sums: Tensor<1>| sums.into_data().iter::<f64>().collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use rayon::ThreadPoolBuilder;

    use super::*;

    fn drawn(count: usize) -> Vec<f32> {
        (0..count)
            .map(|index| (0.7 * index as f32).sin() * 10f32.powf((index % 7) as f32 - 3.0))
            .collect()
    }

    fn tensor(numbers: &[f32]) -> Tensor<1> {
        Tensor::from_data(TensorData::from(numbers), &Device::flex())
    }

    #[test]
    fn no_number_of_threads_changes_a_sum() {
        let numbers = drawn(100_003);
        let exact: f64 = numbers.iter().map(|x| f64::from(*x).powi(2)).sum();
        let sum = |threads| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            pool.install(|| sum_of_squares(&tensor(&numbers)))
        };
        assert!(
            (sum(1) / exact - 1.0).abs() < 1e-12,
            "{} and {exact}",
            sum(1)
        );
        assert_eq!(
            [2, 5].map(|threads| sum(threads).to_bits()),
            [sum(1).to_bits(); 2]
        );
        let on_device: f64 = sums_on_device(&tensor(&numbers)).into_iter().sum();
        assert!(
            (on_device / exact - 1.0).abs() < 1e-5,
            "{on_device} and {exact}"
        );
    }

    #[test]
    fn a_square_that_f32_cannot_hold_is_summed() {
        let norm = sum_of_squares(&tensor(&[3e30, 4e30])).sqrt();
        assert!((norm / 5e30 - 1.0).abs() < 1e-6, "{norm}");
    }

    #[test]
    fn parts_are_added_at_their_places() {
        let (numbers, sum) = (drawn(10_000), tensor(&vec![1.0; 10_010]));
        let turned = tensor(&[1.0, 2.0, 3.0, 4.0])
            .reshape([2, 2])
            .transpose()
            .reshape([-1]);
        let sum = add_at(
            sum,
            vec![
                (10..10_010, tensor(&numbers)),
                (2..6, turned),
                (4..5, tensor(&[0.5])),
            ],
        );
        let mut expected: Vec<f32> = [1.0; 10]
            .into_iter()
            .chain(numbers.iter().map(|x| 1.0 + x))
            .collect();
        expected[2..6].copy_from_slice(&[2.0, 4.0, 3.5, 5.0]);
        sum.into_data()
            .assert_eq(&TensorData::from(expected.as_slice()), true);
    }
}
