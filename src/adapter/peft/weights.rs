//! Reads `adapter_model.safetensors`: the place of each tensor for a model, and its numbers.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::WEIGHTS;
use super::contents::contents_in;
use crate::adapter::attach::Numbers;
use crate::adapter::experts::{Routed, Stack, b_of};
use crate::adapter::tables::TableTarget;
use crate::adapter::{AdapterError, LoraConfig, Target};
use crate::files::safetensors::Archive;
use crate::model::LinearSpec;

const PICKLE: &str = "adapter_model.bin";

/// Reads `adapter_model.safetensors` for a model with these modules. For a table, or rows of it,
/// only the first of the two entries is used. A table of the base that the file contains stands
/// under `MODULE.base_layer`.
///
/// # Errors
/// The file is damaged, or a tensor is missing, left over or of another shape; all of them are
/// listed.
pub fn read_numbers(
    folder: &Path,
    config: &LoraConfig,
    modules: &[LinearSpec],
) -> Result<Numbers, AdapterError> {
    let archive = open(folder)?;
    let Contents {
        pairs,
        tables,
        bases,
    } = contents_in(&archive, config, modules)?;
    let one =
        |key: &str| Ok::<_, AdapterError>([archive.read_f32(key)?.unwrap_or_default(), Vec::new()]);
    let last = LastB::default();
    let vector = |stored: &AdapterTensors| {
        stored
            .vector
            .as_ref()
            .map(|(name, key)| Ok((name.clone(), one(key)?)))
    };
    let vectors: Vec<_> = pairs.iter().filter_map(vector).collect();
    let pairs = pairs
        .into_iter()
        .map(|stored| Ok((stored.target.module.clone(), stored.read(&archive, &last)?)));
    let tables = tables
        .into_iter()
        .map(|stored| Ok((stored.target.module.name.clone(), one(&stored.key)?)));
    let bases = bases
        .into_iter()
        .map(|(module, key)| Ok((format!("{module}.base_layer"), one(&key)?)));
    pairs.chain(tables).chain(bases).chain(vectors).collect()
}

/// Opens `adapter_model.safetensors`.
///
/// # Errors
/// The file is missing or damaged.
pub fn open(folder: &Path) -> Result<Archive, AdapterError> {
    let path = folder.join(WEIGHTS);
    if super::is_of_mlx(folder) {
        return Err(AdapterError::OfMlx {
            folder: folder.display().to_string(),
        });
    }
    if !path.exists() && folder.join(PICKLE).exists() {
        let message = format!(
            "there is no such file, only `{PICKLE}`; pickle files can run code and are refused"
        );
        return Err(AdapterError::Config {
            place: path.display().to_string(),
            message,
        });
    }
    Ok(Archive::open(&path)?)
}

/// The contents of a file; names and shapes are checked.
#[derive(Debug, Default)]
pub struct Contents {
    /// Matrices A and B.
    pub pairs: Vec<AdapterTensors>,
    /// Tables, and rows of them.
    pub tables: Vec<StoredTable>,
    /// Module of embedding or head, and the key of the base's table that PEFT saved with it.
    pub bases: Vec<(String, String)>,
}

/// A table, or rows of it, within an open file.
#[derive(Debug)]
pub struct StoredTable {
    /// The table, and which part of it.
    pub target: TableTarget,
    /// The key.
    pub key: String,
}

/// An adapter's A [r, in] and B [out, r] within an open file; names and shapes are checked.
#[derive(Debug)]
pub struct AdapterTensors {
    /// The adapter.
    pub target: Target,
    pub(super) keys: [String; 2],
    /// Name and key of its vector, where it has one.
    pub(super) vector: Option<(String, String)>,
    /// Its part of a matrix of all experts.
    pub(super) slice: Option<(Arc<Stack>, Routed)>,
}

/// The joint B of all experts that was read last, by its key: each expert asks for its part of it.
pub type LastB = Mutex<Option<(String, Vec<f32>)>>;

impl AdapterTensors {
    /// Reads the numbers of A and B.
    ///
    /// # Errors
    /// Their type is not f32, f16 or bf16.
    pub fn read(&self, archive: &Archive, last: &LastB) -> Result<[Vec<f32>; 2], AdapterError> {
        if let Some((stack, Routed { expert, place, .. })) = &self.slice {
            let ([of_a, of_b], rank) = (&self.keys, self.target.rank);
            let a = archive
                .read_rows_f32(of_a, expert * rank..(expert + 1) * rank)?
                .unwrap_or_default();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_none_or(|(key, _)| key != of_b) {
                *last = Some((of_b.clone(), archive.read_f32(of_b)?.unwrap_or_default()));
            }
            let (_, all) = last.as_ref().expect("it was read");
            return Ok([a, b_of(all, stack, rank, *expert, *place)]);
        }
        let [a, b] = self.keys.each_ref().map(|key| archive.read_f32(key));
        Ok([a?.unwrap_or_default(), b?.unwrap_or_default()])
    }

    /// Reads the numbers of its vector [out], where it has one.
    ///
    /// # Errors
    /// Their type is not f32, f16 or bf16.
    pub fn read_vector(&self, archive: &Archive) -> Result<Option<Vec<f32>>, AdapterError> {
        let Some((_, key)) = &self.vector else {
            return Ok(None);
        };
        Ok(Some(archive.read_f32(key)?.unwrap_or_default()))
    }
}

/// Finds the matrices of an open file without reading them.
///
/// # Errors
/// A tensor is missing, left over or of another shape; all of them are listed. Or the file holds
/// more than matrices.
pub fn stored_in(
    archive: &Archive,
    config: &LoraConfig,
    modules: &[LinearSpec],
) -> Result<Vec<AdapterTensors>, AdapterError> {
    let contents = contents_in(archive, config, modules)?;
    let Some(table) = contents.tables.first() else {
        return Ok(contents.pairs);
    };
    let message = format!(
        "tensor `{}` is no low-rank matrix, and nothing else can be written in this format",
        table.key
    );
    let hint = "merge the adapter with `rankine merge`, and export the merged model".to_owned();
    Err(AdapterError::Mixed {
        place: archive.path().display().to_string(),
        message,
        hint,
    })
}
