//! Merges adapters into a frozen weight, row by row in the checkpoint's orientation: W + Σ wᵢ sᵢ Bᵢ
//! Aᵢ, with s = alpha / r or alpha / sqrt(r), Hu et al. 2021, arXiv:2106.09685.
//!
//! Magnitudes then scale the rows, and biases are added to the bias. Tables that were trained
//! whole, and rows of them, replace the base's.

use std::collections::BTreeMap;
use std::path::Path;

use super::peft::{self, AdapterTensors, Contents, LastB, StoredTable};
use super::{AdapterError, TablePart};
use crate::files::safetensors::Archive;
use crate::model::{LinearSpec, Role};
use crate::terms::AdapterVector;

/// An adapter folder to be merged. Its numbers stay in the file until they are asked for.
#[derive(Debug)]
pub struct MergeSource {
    weight: f64,
    vector: Option<AdapterVector>,
    archive: Archive,
    last: LastB,
    pairs: BTreeMap<String, AdapterTensors>,
    tables: Vec<StoredTable>,
    /// Tables of the base that the adapter's file contains, by module.
    bases: BTreeMap<String, String>,
    /// The embedding's module.
    embedding: Option<String>,
    /// Whether a tied head has the embedding's rows.
    shares_rows: bool,
    /// Whether a tied head becomes a table of its own.
    pub unties: bool,
}

impl MergeSource {
    /// Opens a PEFT folder for a model with these modules; its contribution is multiplied by
    /// `weight`.
    ///
    /// # Errors
    /// The folder is not complete, asks for something that is not supported, or was made for
    /// another model.
    pub fn open(folder: &Path, weight: f64, modules: &[LinearSpec]) -> Result<Self, AdapterError> {
        let (config, archive) = (peft::read_config_on(folder, modules)?, peft::open(folder)?);
        let Contents {
            pairs,
            tables,
            bases,
        } = peft::contents_in(&archive, &config, modules)?;
        let pairs: BTreeMap<_, _> = pairs
            .into_iter()
            .map(|stored| (stored.target.module.clone(), stored))
            .collect();
        let lacks_bias = |linear: &&LinearSpec| !linear.bias && pairs.contains_key(&linear.name);
        if config.has(AdapterVector::Bias)
            && let Some(linear) = modules.iter().find(lacks_bias)
        {
            let reason = format!(
                "it has a bias for `{}`, where the base has none to add it to",
                linear.name
            );
            return Err(AdapterError::Unmergeable {
                folder: folder.display().to_string(),
                reason,
            });
        }
        let shares_rows = config
            .table_targets(modules)?
            .iter()
            .any(|target| matches!(target.part, TablePart::Shared(_)));
        let (vector, unties) = (config.vector, config.unties(modules));
        let bases = bases.into_iter().collect();
        let embedding = modules
            .iter()
            .find(|linear| linear.role == Role::Embedding)
            .map(|linear| linear.name.clone());
        Ok(Self {
            weight,
            vector,
            archive,
            last: LastB::default(),
            pairs,
            tables,
            bases,
            embedding,
            shares_rows,
            unties,
        })
    }

    /// Refuses adapters that cannot be added up: magnitudes scale only the sum that they were
    /// trained on.
    ///
    /// # Errors
    /// An adapter has magnitudes, and there is another adapter or a weight other than 1.
    pub fn check_sum(sources: &[Self]) -> Result<(), AdapterError> {
        let is_alone =
            |source: &Self| sources.len() == 1 && source.weight.to_bits() == 1_f64.to_bits();
        match sources
            .iter()
            .find(|source| source.vector == Some(AdapterVector::Magnitude) && !is_alone(source))
        {
            None => Ok(()),
            Some(source) => {
                let folder = source
                    .archive
                    .path()
                    .parent()
                    .unwrap_or(source.archive.path())
                    .display()
                    .to_string();
                let reason = "it is DoRA, whose magnitudes go with the base and itself alone, and \
                    with weight 1"
                    .to_owned();
                Err(AdapterError::Unmergeable { folder, reason })
            }
        }
    }

    /// Returns the vector of a module, where it has one.
    fn vector(&self, module: &str) -> Result<Option<Vec<f32>>, AdapterError> {
        self.pairs
            .get(module)
            .map_or(Ok(None), |stored| stored.read_vector(&self.archive))
    }

    /// Returns A [r, columns] and B [rows, r] of a weight [rows, columns], with all scales of the
    /// adapter in B.
    fn scaled(&self, linear: &LinearSpec) -> Option<Result<[Vec<f32>; 2], AdapterError>> {
        let stored = self.pairs.get(&linear.name)?;
        let scale = self.weight * stored.target.scale;
        // Of some the weight is the transpose of B A.
        let in_order = |[a, b]: [Vec<f32>; 2]| {
            if linear.is_turned() {
                [turned(&b, stored.target.rank), turned(&a, linear.inputs)]
            } else {
                [a, b]
            }
        };
        let scaled = |[a, b]: [Vec<f32>; 2]| {
            [
                a,
                b.into_iter()
                    .map(|b| (f64::from(b) * scale) as f32)
                    .collect(),
            ]
        };
        Some(
            stored
                .read(&self.archive, &self.last)
                .map(|pair| scaled(in_order(pair))),
        )
    }

    /// Returns the replacement of a table or of some of its rows.
    fn replaced(&self, linear: &LinearSpec) -> Result<Option<Replacement>, AdapterError> {
        let rows = self.rows(linear)?;
        let Some(key) = self.base_key(linear) else {
            return Ok(rows);
        };
        let (mut numbers, [_, width]) = (
            self.archive.read_f32(key)?.unwrap_or_default(),
            linear.weight_shape(),
        );
        if let Some(rows) = rows {
            for (row, numbers) in numbers.chunks_mut(width).enumerate() {
                if let Some(own) = rows.row(row) {
                    numbers.copy_from_slice(own);
                }
            }
        }
        if let Some(pair) = self.scaled(linear) {
            add_product(&mut numbers, &pair?, width);
        }
        Ok(Some(Replacement {
            width,
            weight: self.weight,
            tokens: None,
            numbers,
        }))
    }

    /// Returns the trained table, or its rows.
    fn rows(&self, linear: &LinearSpec) -> Result<Option<Replacement>, AdapterError> {
        let shares = self.shares_rows && linear.role == Role::TiedHead;
        let is_it = |stored: &&StoredTable| {
            let module = &stored.target.module;
            module.name == linear.name || (shares && module.role == Role::Embedding)
        };
        let Some(stored) = self.tables.iter().find(is_it) else {
            return Ok(None);
        };
        let tokens = match &stored.target.part {
            TablePart::Whole => None,
            TablePart::Rows(tokens) | TablePart::Shared(tokens) => Some(
                tokens
                    .iter()
                    .enumerate()
                    .map(|(place, token)| (*token as usize, place))
                    .collect(),
            ),
        };
        let [_, width] = linear.weight_shape();
        let numbers = self.archive.read_f32(&stored.key)?.unwrap_or_default();
        Ok(Some(Replacement {
            width,
            weight: self.weight,
            tokens,
            numbers,
        }))
    }

    /// Returns the key of the base's table in the adapter's file; for a tied head that of the
    /// embedding.
    fn base_key(&self, linear: &LinearSpec) -> Option<&String> {
        let of_embedding = || {
            self.embedding
                .as_ref()
                .filter(|_| linear.role == Role::TiedHead && !self.unties_own(linear))
        };
        self.bases
            .get(&linear.name)
            .or_else(|| self.bases.get(of_embedding()?))
    }

    /// Whether a tied head trained whole by itself.
    fn unties_own(&self, linear: &LinearSpec) -> bool {
        self.tables.iter().any(|stored| {
            stored.target.module.name == linear.name && stored.target.part == TablePart::Whole
        })
    }

    /// Whether the adapter's file contains tables of the base.
    pub fn has_bases(&self) -> bool {
        !self.bases.is_empty()
    }

    /// Compares the base's tables in the adapter's file with those of the base, and keeps and
    /// reports those that differ; `stored` gives a tensor's name in the base's files.
    ///
    /// # Errors
    /// A table differs, and there are other adapters or a weight other than 1.
    pub fn compare_bases(
        &mut self,
        base: &[Archive],
        is_alone: bool,
        stored: impl Fn(&str) -> String,
    ) -> Result<Vec<String>, AdapterError> {
        let mut differing = BTreeMap::new();
        for (module, key) in std::mem::take(&mut self.bases) {
            let weight = |module: &str| stored(&format!("{module}.weight"));
            let names = [Some(weight(&module)), self.embedding.as_deref().map(weight)];
            // Of a head that is the embedding the base may have no tensor.
            let Some(ours) = names.iter().flatten().find_map(|name| {
                base.iter()
                    .find_map(|shard| shard.read_f32(name).transpose())
            }) else {
                continue;
            };
            if Some(ours?) != self.archive.read_f32(&key)? {
                differing.insert(module, key);
            }
        }
        match differing.keys().next() {
            Some(module) if !is_alone || self.weight.to_bits() != 1_f64.to_bits() => {
                Err(AdapterError::OtherTable {
                    module: module.clone(),
                })
            }
            _ => {
                self.bases = differing;
                let told = |module| {
                    format!(
                        "the table `{module}` of the adapter takes the place of the \
                        base's, from which it differs"
                    )
                };
                Ok(self.bases.keys().map(told).collect())
            }
        }
    }
}

/// Adds B A to a matrix with `columns` columns.
fn add_product(numbers: &mut [f32], [a, b]: &[Vec<f32>; 2], columns: usize) {
    let rank = a.len() / columns;
    for (row, of_b) in numbers.chunks_mut(columns).zip(b.chunks(rank)) {
        for (of_b, of_a) in of_b.iter().zip(a.chunks(columns)) {
            row.iter_mut()
                .zip(of_a)
                .for_each(|(number, a)| *number += of_b * a);
        }
    }
}

/// Rows that replace the base's.
#[derive(Debug)]
pub struct Replacement {
    width: usize,
    /// Factor of their difference from the base's rows.
    pub weight: f64,
    /// Indices of rows by token; `None`: every row is in its own place.
    tokens: Option<BTreeMap<usize, usize>>,
    numbers: Vec<f32>,
}

impl Replacement {
    /// Returns the replacement of rows of a weight; `None` where nothing is replaced.
    ///
    /// # Errors
    /// Numbers cannot be read, or another adapter changes the same table.
    pub fn of(sources: &[MergeSource], linear: &LinearSpec) -> Result<Option<Self>, AdapterError> {
        let mut found = None;
        for (index, source) in sources.iter().enumerate() {
            let Some(replaced) = source.replaced(linear)? else {
                continue;
            };
            if found.is_some() {
                return Err(AdapterError::TwoTables {
                    module: linear.name.clone(),
                });
            }
            found = Some((index, replaced));
        }
        let Some((found, replacement)) = found else {
            return Ok(None);
        };
        // Matrices over a table of the base that came with them are in it.
        let changes = |(index, source): (usize, &MergeSource)| {
            source.pairs.contains_key(&linear.name)
                && (index != found || source.base_key(linear).is_none())
        };
        if sources.iter().enumerate().any(changes) {
            return Err(AdapterError::TwoTables {
                module: linear.name.clone(),
            });
        }
        Ok(Some(replacement))
    }

    /// Returns the replacement of a row.
    pub fn row(&self, row: usize) -> Option<&[f32]> {
        let place = self
            .tokens
            .as_ref()
            .map_or(Some(row), |tokens| tokens.get(&row).copied())?;
        Some(&self.numbers[place * self.width..(place + 1) * self.width])
    }
}

/// Returns the transpose of a matrix with `columns` columns.
fn turned(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| matrix.iter().skip(column).step_by(columns).copied())
        .collect()
}

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
