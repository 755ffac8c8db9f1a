//! What adapters add to a frozen weight, row by row in the checkpoint's orientation: W + Σ wᵢ sᵢ Bᵢ Aᵢ, with s = alpha / r or
//! alpha / sqrt(r), Hu et al. 2021, arXiv:2106.09685.

use std::collections::BTreeMap;
use std::path::Path;

use super::Error;
use super::peft::{self, Stored};
use crate::files::safetensors::Archive;
use crate::model::LinearSpec;

/// An adapter folder that is to be merged. Its numbers stay in the file until they are asked for.
#[derive(Debug)]
pub struct Source {
    weight: f64,
    archive: Archive,
    stored: BTreeMap<String, Stored>,
}

impl Source {
    /// Opens a PEFT folder for a model with these projections; what it adds counts `weight` times.
    ///
    /// # Errors
    /// The folder is not whole, asks for what is not built, or was made for another model.
    pub fn open(folder: &Path, weight: f64, projections: &[LinearSpec]) -> Result<Self, Error> {
        let (config, archive) = (peft::read_config(folder)?, peft::open(folder)?);
        let stored = peft::stored_in(&archive, "", &config, projections)?;
        Ok(Self { weight, archive, stored: stored.into_iter().map(|stored| (stored.target.module.clone(), stored)).collect() })
    }

    /// A [r, in] and B [out, r] with everything that scales the adapter in B.
    fn scaled(&self, module: &str) -> Option<Result<[Vec<f32>; 2], Error>> {
        let stored = self.stored.get(module)?;
        let scale = self.weight * stored.target.scale;
        Some(stored.read(&self.archive).map(|[a, b]| [a, b.into_iter().map(|b| (f64::from(b) * scale) as f32).collect()]))
    }
}

/// What adapters add to one weight [out, in].
#[derive(Debug)]
pub struct Delta {
    /// Width of a row.
    pub inputs: usize,
    /// A [r, in] and scaled B [out, r] of each adapter that has the module.
    pairs: Vec<[Vec<f32>; 2]>,
}

impl Delta {
    /// What these adapters add to the weight of a projection; `None` where none of them has it.
    ///
    /// # Errors
    /// Numbers cannot be read.
    pub fn of(sources: &[Source], linear: &LinearSpec) -> Result<Option<Self>, Error> {
        let pairs = sources.iter().filter_map(|source| source.scaled(&linear.name)).collect::<Result<Vec<_>, _>>()?;
        Ok((!pairs.is_empty()).then_some(Self { inputs: linear.inputs, pairs }))
    }

    /// Puts row `row` of Σ w s B A into `sum`, [in].
    pub fn row(&self, row: usize, sum: &mut [f32]) {
        sum.fill(0.0);
        for [a, b] in &self.pairs {
            let rank = a.len() / self.inputs;
            // Four rows of A at a time: the sum is read and written a quarter as often.
            let (fours, rest) = b[row * rank..(row + 1) * rank].as_chunks::<4>();
            let (a_fours, a_rest) = a.split_at(4 * fours.len() * self.inputs);
            for (b, a) in fours.iter().zip(a_fours.chunks_exact(4 * self.inputs)) {
                add_four(sum, *b, a);
            }
            for (b, a) in rest.iter().zip(a_rest.chunks_exact(self.inputs)) {
                sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
        }
    }
}

/// sum + b A of four rows of A.
fn add_four(sum: &mut [f32], b: [f32; 4], a: &[f32]) {
    let (first, second) = a.split_at(2 * sum.len());
    let ([a0, a1], [a2, a3]) = (halves(first), halves(second));
    for ((((sum, a0), a1), a2), a3) in sum.iter_mut().zip(a0).zip(a1).zip(a2).zip(a3) {
        *sum += b[0] * a0 + b[1] * a1 + b[2] * a2 + b[3] * a3;
    }
}

fn halves(rows: &[f32]) -> [&[f32]; 2] {
    let (first, second) = rows.split_at(rows.len() / 2);
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_that_of_the_products_added_up() {
        let first = [vec![1.0, 2.0, 3.0], vec![1.0, -1.0]]; // r 1, in 3, out 2
        let second = [vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0], vec![10.0, 20.0, 30.0, 40.0]]; // r 2
        let delta = Delta { inputs: 3, pairs: vec![first, second] };
        let mut sum = vec![f32::NAN; 3];
        delta.row(0, &mut sum);
        assert_eq!(sum, [11.0, 2.0, 23.0]);
        delta.row(1, &mut sum);
        assert_eq!(sum, [29.0, -2.0, 37.0]);
    }

    #[test]
    fn four_rows_at_a_time_and_the_rest_come_to_the_same() {
        for rank in 1..=9 {
            let a: Vec<f32> = (0..rank * 5).map(|index| index as f32).collect();
            let b: Vec<f32> = (0..rank).map(|index| 1.0 - index as f32).collect();
            let mut sum = vec![0.0; 5];
            let expected = (0..5).map(|column| (0..rank).map(|k| b[k] * a[k * 5 + column]).sum::<f32>()).collect::<Vec<_>>();
            Delta { inputs: 5, pairs: vec![[a, b]] }.row(0, &mut sum);
            assert_eq!(sum, expected, "rank {rank}");
        }
    }
}
