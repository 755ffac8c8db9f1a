//! An adapter folder to be merged.

use std::collections::BTreeMap;
use std::path::Path;

use crate::adapter::peft::{self, AdapterTensors, Contents, LastB, StoredTable};
use crate::adapter::{AdapterError, ScoreConfig, TablePart};
use crate::files::safetensors::{Archive, Named};
use crate::model::{LinearSpec, Role};
use crate::terms::AdapterVector;

/// An adapter folder to be merged. Its numbers stay in the file until they are asked for.
#[derive(Debug)]
pub struct MergeSource {
    pub(super) weight: f64,
    pub(super) vector: Option<AdapterVector>,
    pub(super) archive: Archive,
    pub(super) last: LastB,
    pub(super) pairs: BTreeMap<String, AdapterTensors>,
    pub(super) tables: Vec<StoredTable>,
    /// Tables of the base that the adapter's file contains, by module.
    pub(super) bases: BTreeMap<String, String>,
    /// The embedding's module.
    pub(super) embedding: Option<String>,
    /// Whether a tied head has the embedding's rows.
    pub(super) shares_rows: bool,
    /// Whether a tied head becomes a table of its own.
    pub unties: bool,
    /// The score head, and its tensors.
    pub score: Option<(ScoreConfig, Vec<Named>)>,
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
            score,
        } = peft::contents_in(&archive, &config, modules)?;
        let score = match (&config.score, score) {
            (Some(config), Some(keys)) => {
                let tensors = keys.tensors().into_iter().map(|(name, key)| {
                    let shape = archive.shape(&key).unwrap_or_default().to_vec();
                    Ok((name, shape, archive.read_f32(&key)?.unwrap_or_default()))
                });
                let tensors = tensors.collect::<Result<Vec<_>, AdapterError>>()?;
                Some((config.clone(), tensors))
            }
            _ => None,
        };
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
            score,
        })
    }

    fn unmergeable(&self, reason: String) -> AdapterError {
        let path = self.archive.path();
        AdapterError::Unmergeable {
            folder: path.parent().unwrap_or(path).display().to_string(),
            reason,
        }
    }

    /// Refuses adapters that cannot be added up: magnitudes scale only the sum that they were
    /// trained on, and a score head reads only that.
    ///
    /// # Errors
    /// An adapter has magnitudes or a score head, and there is another adapter or a weight other
    /// than 1.
    pub fn check_sum(sources: &[Self]) -> Result<(), AdapterError> {
        let is_alone =
            |source: &Self| sources.len() == 1 && source.weight.to_bits() == 1_f64.to_bits();
        let is_bound = |source: &&Self| {
            source.vector == Some(AdapterVector::Magnitude) || source.score.is_some()
        };
        match sources
            .iter()
            .find(|source| is_bound(source) && !is_alone(source))
        {
            None => Ok(()),
            Some(source) => {
                let what = if source.score.is_some() {
                    "it has a score head, which goes"
                } else {
                    "it is DoRA, whose magnitudes go"
                };
                Err(source.unmergeable(format!(
                    "{what} with the base and itself alone, and with weight 1"
                )))
            }
        }
    }

    /// Returns the vector of a module, where it has one.
    pub(super) fn vector(&self, module: &str) -> Result<Option<Vec<f32>>, AdapterError> {
        self.pairs
            .get(module)
            .map_or(Ok(None), |stored| stored.read_vector(&self.archive))
    }

    /// Returns A [r, columns] and B [rows, r] of a weight [rows, columns], with all scales of the
    /// adapter in B.
    pub(super) fn scaled(
        &self,
        linear: &LinearSpec,
    ) -> Option<Result<[Vec<f32>; 2], AdapterError>> {
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

    /// Returns the key of the base's table in the adapter's file; for a tied head that of the
    /// embedding.
    pub(super) fn base_key(&self, linear: &LinearSpec) -> Option<&String> {
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

/// Returns the transpose of a matrix with `columns` columns.
fn turned(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| matrix.iter().skip(column).step_by(columns).copied())
        .collect()
}
