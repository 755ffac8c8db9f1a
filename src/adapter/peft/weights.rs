//! Reads `adapter_model.safetensors`: the place of each tensor for a model, and its numbers.

use std::path::Path;

use super::WEIGHTS;
use super::contents::contents_in;
use super::stored::{AdapterTensors, Contents, LastB};
use crate::adapter::numbers::Numbers;
use crate::adapter::{AdapterError, LoraConfig};
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
        score,
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
    let of_layer = score.iter().flat_map(|score| score.layer.clone());
    let of_layer: Vec<_> = of_layer.map(|(name, key)| Ok((name, one(&key)?))).collect();
    let score = score.into_iter().map(|score| {
        let bias = score.bias.map(|key| archive.read_f32(&key)).transpose()?;
        let [weight, _] = one(&score.weight)?;
        Ok((score.module, [weight, bias.flatten().unwrap_or_default()]))
    });
    let others = tables.chain(bases).chain(vectors);
    pairs.chain(others).chain(of_layer).chain(score).collect()
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
    if let Some(score) = &contents.score {
        let message = format!(
            "tensor `{}` is a score head, which this format has no place for",
            score.weight
        );
        let hint = "score texts with `rankine classify`, or load it in PEFT".to_owned();
        return Err(AdapterError::Mixed {
            place: archive.path().display().to_string(),
            message,
            hint,
        });
    }
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
