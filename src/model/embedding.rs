//! Finds rows of the embedding that look untrained, reading the base's files without loading the
//! model.

use burn::tensor::DType;
use rayon::prelude::*;

use super::ModelError;
use super::assemble::WeightSource;
use super::load::Folder;
use super::opened::Opened;
use super::weights::safetensors_paths;
use crate::files::safetensors::Archive;
use crate::files::{Hash, hash_bytes};

/// The share of the median norm below which a row counts as untrained.
const SMALLEST_SHARE: f32 = 1e-3;
/// Rows that are read at a time.
const CHUNK_ROWS: usize = 1024;

/// Why a row of the embedding looks untrained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Untrained {
    /// Every number is 0.
    Zero,
    /// The norm is far smaller than others.
    Small {
        /// Its L2 norm.
        norm: f32,
        /// The median norm of all rows.
        median: f32,
    },
    /// Another token has the same row.
    Shared {
        /// The other token.
        with: u32,
    },
}

impl Untrained {
    /// Describes the reason in words; `token` gives the text of an id.
    pub fn describe(self, token: impl Fn(u32) -> String) -> String {
        match self {
            Self::Zero => "it is all zeros".to_owned(),
            Self::Small { norm, median } => {
                format!("its norm is {norm:.1e}, the median is {median:.1e}")
            }
            Self::Shared { with } => format!("it equals that of `{}`, id {with}", token(with)),
        }
    }
}

impl Folder {
    /// Returns those of these tokens whose embedding looks untrained.
    ///
    /// # Errors
    /// A file of the weights cannot be read.
    pub fn untrained_embeddings(&self, ids: &[u32]) -> Result<Vec<(u32, Untrained)>, ModelError> {
        let name = self.spec.names.embedding();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        if let Opened::Gguf(weights) = self.weights()? {
            let (norms, rows) = looks(&weights, &name, [self.stored_rows, self.spec.width])?;
            return Ok(ids
                .iter()
                .filter_map(|id| Some((*id, judge(*id, &norms, &rows)?)))
                .collect());
        }
        let paths = safetensors_paths(&self.path)?;
        for path in paths {
            let shard = Archive::open(&path)?;
            if let Some(bytes) = shard.bytes(&name) {
                let norms = norms(&shard, &name, self.stored_rows)?;
                let rows: Vec<&[u8]> = bytes.chunks(bytes.len() / self.stored_rows).collect();
                return Ok(ids
                    .iter()
                    .filter_map(|id| Some((*id, judge(*id, &norms, &rows)?)))
                    .collect());
            }
        }
        Ok(Vec::new())
    }
}

fn norms(shard: &Archive, name: &str, rows: usize) -> Result<Vec<f32>, ModelError> {
    let chunks: Vec<usize> = (0..rows).step_by(CHUNK_ROWS).collect();
    let norms = chunks.into_par_iter().map(|start| {
        let count = CHUNK_ROWS.min(rows - start);
        let values = shard
            .read_rows_f32(name, start..start + count)?
            .unwrap_or_default();
        let norm = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
        Ok(values
            .chunks((values.len() / count).max(1))
            .map(norm)
            .collect::<Vec<_>>())
    });
    Ok(norms.collect::<Result<Vec<_>, ModelError>>()?.concat())
}

/// Returns the norm and a hash of each row of a matrix [rows, columns].
fn looks(
    source: &dyn WeightSource,
    name: &str,
    [rows, columns]: [usize; 2],
) -> Result<(Vec<f32>, Vec<Hash>), ModelError> {
    let (mut norms, mut hashes) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for first in (0..rows).step_by(CHUNK_ROWS) {
        let chunk = first..rows.min(first + CHUNK_ROWS);
        let numbers: Vec<f32> = source
            .rows(name, chunk, columns, DType::F32)?
            .iter()
            .collect();
        for row in numbers.chunks(columns.max(1)) {
            norms.push(row.iter().map(|value| value * value).sum::<f32>().sqrt());
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            hashes.push(hash_bytes(&bytes));
        }
    }
    Ok((norms, hashes))
}

fn judge<T: PartialEq>(id: u32, norms: &[f32], rows: &[T]) -> Option<Untrained> {
    let (row, norm) = (id as usize, *norms.get(id as usize)?);
    let mut sorted = norms.to_vec();
    let median = *sorted
        .select_nth_unstable_by(norms.len() / 2, f32::total_cmp)
        .1;
    let other = || {
        rows.iter()
            .enumerate()
            .position(|(other, content)| other != row && *content == rows[row])
    };
    match norm {
        0.0 => Some(Untrained::Zero),
        norm if norm < median * SMALLEST_SHARE => Some(Untrained::Small { norm, median }),
        _ => other().map(|with| Untrained::Shared { with: with as u32 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_trace_of_training_are_told_apart() {
        let rows: [[u8; 2]; 6] = [[1, 1], [2, 2], [0, 0], [3, 3], [2, 2], [4, 4]];
        let rows: Vec<&[u8]> = rows.iter().map(|row| row.as_slice()).collect();
        let norms = [1.0, 2.0, 0.0, 1e-5, 2.0, 1.5];
        let judged: Vec<_> = (0..6).map(|id| judge(id, &norms, &rows)).collect();
        let small = Untrained::Small {
            norm: 1e-5,
            median: 1.5,
        };
        let [zero, first, second] = [
            Untrained::Zero,
            Untrained::Shared { with: 4 },
            Untrained::Shared { with: 1 },
        ];
        assert_eq!(
            judged,
            [
                None,
                Some(first),
                Some(zero),
                Some(small),
                Some(second),
                None
            ]
        );
        assert_eq!(
            small.describe(|_| String::new()),
            "its norm is 1.0e-5, the median is 1.5e0"
        );
    }
}
