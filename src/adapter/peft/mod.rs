//! PEFT's adapter folder, `adapter_config.json` and `adapter_model.safetensors`, read and written exactly.

mod config;
mod weights;

use std::path::{Path, PathBuf};

pub use config::{config_text, modules_json, read_base, read_config, read_hub_base, read_json_config, tokens_json};
pub use weights::{Contents, LastB, Stored, StoredTable, contents_in, open, read_numbers, stored_in};

use super::experts::Routed;
use super::pissa::converted;
use super::{Error, LoraConfig, tensors};
use crate::files::safetensors::write_f32;
use crate::files::write_atomic;
use crate::model::Decoder;
use crate::nn::lora::Portion;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Writes the adapter that is attached to `decoder`, see [`LoraConfig::saved`].
///
/// `base` is what a reader finds in `base_model_name_or_path`: a repository on the Hub, or a local folder without its place on this
/// machine. A commit after `@` goes to `revision`, which is the base's.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, decoder: &Decoder, config: &LoraConfig, base: &str) -> Result<(), Error> {
    let (config, all) = (&config.saved(), converted(decoder, tensors(decoder, &decoder.numbers())));
    write_f32(&folder.join(WEIGHTS), &all, &[("format", "pt".to_owned())])?;
    // Full names choose whatever `layers_to_transform` says, so with it only those of its layers may be written.
    let modules: Vec<&str> = match config.targets.layers {
        None => {
            let names = decoder.projections().map(|projection| projection.name.as_str());
            names.filter(|name| Routed::of(name).is_none()).collect()
        }
        Some(_) => decoder.adapters().filter(|(_, lora)| lora.portion == Portion::Whole).map(|(module, _)| module).collect(),
    };
    Ok(write_atomic(&folder.join(CONFIG), config_text(config, &modules, base).as_bytes())?)
}

/// The files that an adapter folder is read from.
pub fn files(folder: &Path) -> [PathBuf; 2] {
    [folder.join(CONFIG), folder.join(WEIGHTS)]
}
