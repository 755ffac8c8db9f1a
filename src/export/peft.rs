//! Writes an adapter of a run, a checkpoint or another source as a folder that every reader of
//! PEFT's format accepts: whole numbers without a decimal point, targets written out, and no path
//! on this machine. The bytes of its tensors stay the same.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::gguf::Written;
use crate::adapter::{AdapterError, LABELS, peft};
use crate::files::safetensors::{self, Archive, write_lazily};
use crate::files::{self, copy, write_atomic};
use crate::model::{LinearSpec, WeightOrder};

/// Writes the files into `folder`. `base` is the name by which a reader finds the base,
/// `projections` are the base's modules.
///
/// # Errors
/// The adapter is incomplete or not one of this base, or a file cannot be written.
pub fn write_peft(
    adapter: &Path,
    base: &str,
    projections: &[LinearSpec],
    folder: &Path,
) -> Result<Written, AdapterError> {
    let (config, archive) = (
        peft::read_config_on(adapter, projections)?,
        peft::open(adapter)?,
    );
    let stored = peft::contents_in(&archive, &config, projections)?.pairs;
    let modules: Vec<&str> = stored
        .iter()
        .map(|stored| stored.target.module.as_str())
        .collect();
    let is_in_out = projections
        .iter()
        .any(|linear| linear.order == WeightOrder::InOut);
    let order = if is_in_out {
        WeightOrder::InOut
    } else {
        WeightOrder::OutIn
    };
    let [config_name, weights_name] = peft::files(Path::new(""));
    let weights = folder.join(&weights_name);
    let renamed: BTreeMap<String, String> = peft::renamed_in(&archive, projections)
        .into_iter()
        .map(|(key, name)| (name, key))
        .collect();
    if renamed.is_empty() {
        copy(archive.path(), &weights)?;
    } else {
        write_renamed(&archive, &renamed, &weights)?;
    }
    write_atomic(
        &folder.join(&config_name),
        peft::config_text(&config, &modules, order, base).as_bytes(),
    )?;
    if let Some(score) = &config.score {
        write_atomic(&folder.join(LABELS), score.labels_text().as_bytes())?;
    }
    let bytes = weights
        .metadata()
        .map_err(|cause| files::FileError::new("read", &weights, cause))?
        .len();
    Ok(Written {
        tensors: archive.tensors(),
        bytes,
    })
}

/// Writes the same tensors under PEFT's names; `keys` maps those that differ to the file's.
fn write_renamed(
    archive: &Archive,
    keys: &BTreeMap<String, String>,
    path: &Path,
) -> Result<(), AdapterError> {
    let names: BTreeMap<&str, &str> = keys
        .iter()
        .map(|(name, key)| (key.as_str(), name.as_str()))
        .collect();
    let stored = archive.described().into_iter();
    let described = stored.map(|(key, dtype, shape)| {
        (
            names
                .get(key.as_str())
                .map_or(key.clone(), |name| (*name).to_owned()),
            dtype,
            shape,
        )
    });
    write_lazily(
        path,
        described.collect(),
        &[("format", "pt".to_owned())],
        |name| {
            let key = keys.get(name).map_or(name, String::as_str);
            Ok::<_, safetensors::SafetensorsError>(Cow::Borrowed(
                archive.bytes(key).unwrap_or_default(),
            ))
        },
    )?;
    Ok(())
}
