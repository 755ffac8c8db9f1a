//! The largest singular values of a matrix and their vectors, by subspace iteration (Halko,
//! Martinsson and Tropp 2011, arXiv:0909.4061, algorithm 4.4). The subspace is wide, and each round
//! turns it to its principal directions (Rayleigh and Ritz).
//!
//! Where the subspace is the whole space, as for small matrices, one round is exact. It always
//! starts from the same draws.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use super::singular_values::eigen;
use crate::keyed_random::{mix, unit};
use crate::ops::matmul;

/// Directions of a space that is small enough to be used whole.
const SMALL: usize = 128;
/// Directions in addition to twice the wanted number: those just below the wanted ones converge
/// slowly, and cost little here.
const BESIDE: usize = 16;
/// The most rounds. The gain in Σ σ² per round falls fast; where singular values lie close
/// together, any vectors of their span will do.
const ROUNDS: usize = 24;
/// Share of the longest direction below which a direction counts as zero.
const NOTHING: f64 = 1e-6;
/// The share of Σ σ² that a round must add to be followed by another.
const GAIN: f64 = 1e-8;

/// The r largest singular values in descending order, with their vectors.
#[derive(Debug)]
pub(super) struct Principal {
    pub values: Vec<f64>,
    /// Left vectors, one per value, [rows].
    pub left: Vec<Vec<f64>>,
    /// Right vectors, one per value, [columns].
    pub right: Vec<Vec<f64>>,
}

/// Returns the largest singular values of a matrix [rows, columns], row by row, which must have as
/// many.
pub(super) fn principal(matrix: &[f32], [rows, columns]: [usize; 2], rank: usize) -> Principal {
    let whole = rows.min(columns);
    let width = if whole <= SMALL {
        whole
    } else {
        whole.min(2 * rank + BESIDE)
    };
    let matrix = tensor(matrix.to_vec(), [rows, columns]);
    let transposed = matrix.clone().transpose();
    let draw = |column: usize| {
        (0..columns)
            .map(|row| unit(mix((column * columns + row) as u64)) - 0.5)
            .collect()
    };
    let mut right: Vec<Vec<f64>> = (0..width).map(draw).collect();
    let mut captured = 0.0;
    for round in 1.. {
        let (along, _) = turned(&right, width); // [width][columns]
        let (left, _) = turned(&times(&matrix, &along), width); // [width][rows]
        right = times(&transposed, &left); // [width][columns]
        let (values, vectors) = directions(&right);
        let sum: f64 = values.iter().take(rank).sum();
        // A second round where one is enough: draws are turned to what they lie in.
        let is_done =
            round > 1 && (width == whole || round == ROUNDS || sum - captured <= GAIN * sum);
        captured = sum;
        if is_done {
            let (right, values) = turned(&right, rank.min(width));
            let left = (0..values.len())
                .map(|index| combined(&left, &vectors[index], 1.0))
                .collect();
            return Principal {
                values,
                left,
                right,
            };
        }
    }
    unreachable!("a round is the last")
}

/// Returns orthonormal principal directions of the span of columns, at most `most`, and their
/// lengths before they were normalized; zeros for those of no length.
fn turned(columns: &[Vec<f64>], most: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (values, vectors) = directions(columns);
    let lengths: Vec<f64> = values
        .iter()
        .take(most)
        .map(|value| value.max(0.0).sqrt())
        .collect();
    let nothing = NOTHING * lengths.first().copied().unwrap_or(0.0);
    let of = |(vector, length): (&Vec<f64>, &f64)| {
        combined(
            columns,
            vector,
            if *length > nothing { 1.0 / length } else { 0.0 },
        )
    };
    (vectors.par_iter().zip(&lengths).map(of).collect(), lengths)
}

/// Returns the squared lengths of principal directions in descending order, and each direction's
/// coefficients in terms of the columns.
fn directions(columns: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let width = columns.len();
    let gram: Vec<f64> = columns
        .par_iter()
        .flat_map_iter(|one| {
            columns
                .iter()
                .map(|other| dot(one, other))
                .collect::<Vec<_>>()
        })
        .collect();
    let (values, vectors) = eigen(gram, width);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|one, other| values[*other].total_cmp(&values[*one]));
    let vector = |index: &usize| {
        (0..width)
            .map(|place| vectors[place * width + index])
            .collect()
    };
    (
        order.iter().map(|index| values[*index]).collect(),
        order.iter().map(vector).collect(),
    )
}

/// Returns the sum of columns weighted by the numbers of a vector and a scale.
fn combined(columns: &[Vec<f64>], vector: &[f64], scale: f64) -> Vec<f64> {
    let mut sum = vec![0.0; columns[0].len()];
    for (column, factor) in columns.iter().zip(vector) {
        sum.iter_mut()
            .zip(column)
            .for_each(|(sum, number)| *sum += scale * factor * number);
    }
    sum
}

/// Multiplies a matrix [rows, columns] with columns, which are given and returned one by one.
fn times(matrix: &Tensor<2>, columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [rows, inner] = matrix.dims();
    let numbers: Vec<f32> = (0..inner)
        .flat_map(|row| columns.iter().map(move |column| column[row] as f32))
        .collect();
    let product: Vec<f32> = matmul(matrix.clone(), tensor(numbers, [inner, columns.len()]))
        .into_data()
        .iter()
        .collect();
    let column = |index: usize| {
        (0..rows)
            .map(|row| f64::from(product[row * columns.len() + index]))
            .collect()
    };
    (0..columns.len()).map(column).collect()
}

fn tensor(numbers: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(numbers, shape),
        (&Device::flex(), DType::F32),
    )
}

/// Returns the dot product, in lanes, so that a processor adds several at once.
fn dot(one: &[f64], other: &[f64]) -> f64 {
    let ((ones, one), (others, other)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (one, other) in ones.iter().zip(others) {
        for (lane, (one, other)) in lanes.iter_mut().zip(one.iter().zip(other)) {
            *lane += one * other;
        }
    }
    let rest: f64 = one.iter().zip(other).map(|(one, other)| one * other).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns orthonormal vectors of this length: those of the discrete cosine transform.
    fn cosine(index: usize, length: usize) -> Vec<f64> {
        let scale = if index == 0 {
            1.0 / length as f64
        } else {
            2.0 / length as f64
        }
        .sqrt();
        let angle = |place: usize| {
            std::f64::consts::PI * (place as f64 + 0.5) * index as f64 / length as f64
        };
        (0..length)
            .map(|place| scale * angle(place).cos())
            .collect()
    }

    /// Singular values, a shape and a rank.
    type Known<'a> = (&'a dyn Fn(usize) -> f64, [usize; 2], usize);

    /// Known singular values are found: of small and large matrices, wide and tall ones, with
    /// values that fall slowly, and fewer than are wanted.
    #[test]
    fn parts_of_known_matrices_are_found() {
        let slow = |index: usize| 10.0 / (1.0 + 0.05 * index as f64);
        let fast = |index: usize| 0.7_f64.powf(index as f64);
        let few = |index: usize| if index < 3 { 3.0 - index as f64 } else { 0.0 };
        let all: [Known; 6] = [
            (&slow, [12, 20], 4),
            (&slow, [400, 270], 8),
            (&slow, [270, 400], 8),
            (&fast, [300, 250], 16),
            (&few, [40, 30], 5),
            (&few, [300, 200], 5),
        ];
        for (value, [rows, columns], rank) in all {
            let mut exact = vec![0.0; rows * columns];
            let mut expected = exact.clone();
            for index in 0..rows.min(columns) {
                let (left, right) = (cosine((7 * index + 3) % rows, rows), cosine(index, columns));
                for row in 0..rows {
                    for column in 0..columns {
                        let number = value(index) * left[row] * right[column];
                        exact[row * columns + column] += number;
                        expected[row * columns + column] += if index < rank { number } else { 0.0 };
                    }
                }
            }
            let matrix: Vec<f32> = exact.iter().map(|number| *number as f32).collect();
            let found = principal(&matrix, [rows, columns], rank);
            for index in 0..rank {
                assert!(
                    (found.values[index] - value(index)).abs() < 2e-5 * value(0),
                    "{rows} x {columns}, {index}: {:?}",
                    found.values
                );
            }
            let number = |row: usize, column: usize| -> f64 {
                (0..rank)
                    .map(|index| {
                        found.values[index] * found.left[index][row] * found.right[index][column]
                    })
                    .sum()
            };
            let at = |at: usize| (number(at / columns, at % columns) - expected[at]).powi(2);
            let distance = (0..rows * columns).map(at).sum::<f64>().sqrt();
            assert!(distance < 0.01 * value(0), "{rows} x {columns}: {distance}");
        }
    }

    #[test]
    fn it_is_the_same_every_time() {
        let matrix: Vec<f32> = (0..90 * 70_u64)
            .map(|index| unit(mix(index)) as f32 - 0.5)
            .collect();
        let [one, other] = [0, 1].map(|_| principal(&matrix, [90, 70], 8));
        assert_eq!(
            (one.values, one.left, one.right),
            (other.values, other.left, other.right)
        );
    }
}
