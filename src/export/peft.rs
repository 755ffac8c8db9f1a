//! An adapter, of a run, a checkpoint or from elsewhere, as a folder that everybody who reads PEFT's format takes: whole numbers without a
//! point, targets written out, no path of this machine. Its tensors stay as they are to the byte.

use std::path::Path;

use super::gguf::Written;
use crate::adapter::{Error, peft};
use crate::files::{self, copy, write_atomic};
use crate::model::LinearSpec;

/// Writes the files into `folder`. `base` is how a reader is to find the base, `projections` are the base's modules.
///
/// # Errors
/// The adapter is not whole or not one of this base, or a file cannot be written.
pub fn write_peft(adapter: &Path, base: &str, projections: &[LinearSpec], folder: &Path) -> Result<Written, Error> {
    let (config, archive) = (peft::read_config(adapter)?, peft::open(adapter)?);
    let stored = peft::contents_in(&archive, &config, projections)?.pairs;
    let modules: Vec<&str> = stored.iter().map(|stored| stored.target.module.as_str()).collect();
    let [config_name, weights_name] = peft::files(Path::new(""));
    let weights = folder.join(&weights_name);
    copy(archive.path(), &weights)?;
    write_atomic(&folder.join(&config_name), peft::config_text(&config, &modules, base).as_bytes())?;
    let bytes = weights.metadata().map_err(|cause| files::Error::new("read", &weights, cause))?.len();
    Ok(Written { tensors: archive.tensors(), bytes })
}
