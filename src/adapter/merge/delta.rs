//! What adapters add to a weight, row by row.

use super::source::MergeSource;
use crate::adapter::AdapterError;
use crate::model::LinearSpec;
use crate::terms::AdapterVector;

/// The sum of what adapters add to one weight [rows, columns].
#[derive(Debug)]
pub struct Delta {
    /// Width of a row.
    pub inputs: usize,
    /// A [r, columns] and scaled B [rows, r] of each adapter that has the module.
    pairs: Vec<[Vec<f32>; 2]>,
    /// The magnitudes, which are the norm of each row after the merge, [rows].
    magnitudes: Option<Vec<f32>>,
}

impl Delta {
    /// Returns what these adapters add to the weight of a module; `None` where none of them has it.
    ///
    /// # Errors
    /// Numbers cannot be read.
    pub fn of(sources: &[MergeSource], linear: &LinearSpec) -> Result<Option<Self>, AdapterError> {
        let pairs = sources
            .iter()
            .filter_map(|source| source.scaled(linear))
            .collect::<Result<Vec<_>, _>>()?;
        let has_some = |source: &&MergeSource| source.vector == Some(AdapterVector::Magnitude);
        let magnitudes = sources
            .iter()
            .find(has_some)
            .map(|source| source.vector(&linear.name))
            .transpose()?
            .flatten();
        Ok((!pairs.is_empty()).then_some(Self {
            inputs: linear.weight_shape()[1],
            pairs,
            magnitudes,
        }))
    }

    /// Returns what they add to the bias of a projection: one row, as the product of a bias [1,
    /// out] and its scale [1, 1].
    ///
    /// # Errors
    /// Numbers cannot be read.
    pub fn of_bias(
        sources: &[MergeSource],
        linear: &LinearSpec,
    ) -> Result<Option<Self>, AdapterError> {
        let mut pairs = Vec::new();
        for source in sources
            .iter()
            .filter(|source| source.vector == Some(AdapterVector::Bias))
        {
            if let (Some(stored), Some(bias)) =
                (source.pairs.get(&linear.name), source.vector(&linear.name)?)
            {
                pairs.push([bias, vec![(source.weight * stored.target.scale) as f32]]);
            }
        }
        Ok((!pairs.is_empty()).then_some(Self {
            inputs: linear.outputs,
            pairs,
            magnitudes: None,
        }))
    }

    /// Whether rows of the sum are scaled.
    pub fn has_magnitudes(&self) -> bool {
        self.magnitudes.is_some()
    }

    /// Returns the factor of a row of the sum, given its norm: m / norm, arXiv:2402.09353.
    pub fn factor(&self, row: usize, norm: impl FnOnce() -> f64) -> Option<f32> {
        let magnitude = f64::from(self.magnitudes.as_ref()?[row]);
        let norm = norm();
        Some(if norm > 0.0 {
            (magnitude / norm) as f32
        } else {
            1.0
        })
    }

    /// Writes parts of the row `row` and of the next, where there is one, of Σ w s B A into `sums`:
    /// as many columns as they have room for, from the column `first` on.
    pub fn pair(&self, row: usize, first: usize, sums: [&mut [f32]; 2]) {
        let [upper, lower] = sums;
        let columns = upper.len();
        upper.fill(0.0);
        lower.fill(0.0);
        for [a, b] in &self.pairs {
            let rank = a.len() / self.inputs;
            let of_row = |row: usize| b[row * rank..(row + 1) * rank].as_chunks::<4>();
            let ((upper_fours, upper_rest), (lower_fours, lower_rest)) =
                (of_row(row), of_row((row + 1).min(b.len() / rank - 1)));
            let of_a = |row: usize| &a[row * self.inputs + first..][..columns];
            // Four rows of A at a time: the sums are read and written a quarter as often.
            for (four, (up, low)) in upper_fours.iter().zip(lower_fours).enumerate() {
                add_four(
                    [upper, lower],
                    [up, low],
                    [0, 1, 2, 3].map(|row| of_a(4 * four + row)),
                );
            }
            for (index, (up, low)) in upper_rest.iter().zip(lower_rest).enumerate() {
                for ((upper, lower), a) in upper
                    .iter_mut()
                    .zip(&mut *lower)
                    .zip(of_a(4 * upper_fours.len() + index))
                {
                    *upper += up * a;
                    *lower += low * a;
                }
            }
        }
    }
}

/// Computes sum + b A of four rows of A, for two rows of B. Products and sums are rounded one by
/// one, so that the result is the same on every processor.
fn add_four([upper, lower]: [&mut [f32]; 2], [up, low]: [&[f32; 4]; 2], a: [&[f32]; 4]) {
    let columns = a[0].iter().zip(a[1]).zip(a[2]).zip(a[3]);
    for ((upper, lower), (((a0, a1), a2), a3)) in upper.iter_mut().zip(lower).zip(columns) {
        *upper += up[0] * a0 + up[1] * a1 + up[2] * a2 + up[3] * a3;
        *lower += low[0] * a0 + low[1] * a1 + low[2] * a2 + low[3] * a3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_that_of_the_products_added_up() {
        let first = [vec![1.0, 2.0, 3.0], vec![1.0, -1.0]]; // r 1, in 3, out 2
        let second = [
            vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            vec![10.0, 20.0, 30.0, 40.0],
        ]; // r 2
        let delta = Delta {
            inputs: 3,
            pairs: vec![first, second],
            magnitudes: None,
        };
        let pair = |row: usize, first: usize| {
            let [mut upper, mut lower] = [vec![f32::NAN; 3 - first], vec![f32::NAN; 3 - first]];
            delta.pair(row, first, [&mut upper, &mut lower]);
            [upper, lower]
        };
        assert_eq!(pair(0, 0), [[11.0, 2.0, 23.0], [29.0, -2.0, 37.0]]);
        assert_eq!(pair(0, 1), [[2.0, 23.0], [-2.0, 37.0]]);
        assert_eq!(pair(1, 0)[0], [29.0, -2.0, 37.0], "the last row is alone");
    }

    #[test]
    fn four_rows_at_a_time_and_the_rest_come_to_the_same() {
        for rank in 1..=9 {
            let a: Vec<f32> = (0..rank * 5).map(|index| index as f32).collect();
            let b: Vec<f32> = (0..rank).map(|index| 1.0 - index as f32).collect();
            let expected = (0..5)
                .map(|column| (0..rank).map(|k| b[k] * a[k * 5 + column]).sum::<f32>())
                .collect::<Vec<_>>();
            let (mut sum, mut other) = (vec![0.0; 5], vec![0.0; 5]);
            Delta {
                inputs: 5,
                pairs: vec![[a, b]],
                magnitudes: None,
            }
            .pair(0, 0, [&mut sum, &mut other]);
            assert_eq!(sum, expected, "rank {rank}");
        }
    }
}
