//! Reads and writes PEFT's adapter folder, `adapter_config.json` and `adapter_model.safetensors`,
//! exactly.

mod config;
mod contents;
mod fitted;
mod keys;
mod stored;
mod values;
mod vocabulary;
mod weights;

use std::path::{Path, PathBuf};

pub use config::{
    config_text, modules_json, read_base, read_config, read_hub_base, read_json_config, tokens_json,
};
pub use contents::contents_in;
pub use stored::{AdapterTensors, Contents, LastB, StoredTable};
pub use vocabulary::resize;
pub use weights::{open, read_numbers, stored_in};

use super::experts::Routed;
use super::pissa::converted;
use super::score::LABELS;
use super::{AdapterError, LoraConfig, Targets, tensors};
use crate::files::safetensors::{Archive, write_f32};
use crate::files::write_atomic;
use crate::model::{Decoder, LinearSpec, WeightOrder};
use crate::nn::lora::Portion;
use crate::terms::Modules;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's `task_type` of a model without a head.
const FEATURES: &str = "FEATURE_EXTRACTION";

/// Writes the adapter that is attached to `decoder`, see [`LoraConfig::saved`].
///
/// `base` becomes `base_model_name_or_path`: a repository on the Hub, or the name of a local folder
/// without its path on this machine. A commit after `@` becomes `revision`, which is the base's.
///
/// # Errors
/// A file cannot be written.
pub fn write(
    folder: &Path,
    decoder: &Decoder,
    config: &LoraConfig,
    base: &str,
) -> Result<(), AdapterError> {
    let (config, mut all) = (
        &config.saved(),
        converted(decoder, tensors(decoder, &decoder.numbers())),
    );
    let stem = decoder.spec.names.stem;
    let name = |module: &str| {
        let own = module.strip_prefix(stem).filter(|_| config.is_of_features);
        own.unwrap_or(module).to_owned()
    };
    for (key, ..) in &mut all {
        if let Some(of_model) = key.strip_prefix(keys::PREFIX) {
            *key = format!("{}{}", keys::PREFIX, name(of_model));
        }
    }
    write_f32(&folder.join(WEIGHTS), &all, &[("format", "pt".to_owned())])?;
    // Full names choose whatever `layers_to_transform` says, so with it only those of its layers
    // may be written.
    let modules: Vec<&str> = match config.targets.layers {
        None => {
            let names = decoder
                .projections()
                .map(|projection| projection.name.as_str());
            names.filter(|name| Routed::of(name).is_none()).collect()
        }
        Some(_) => decoder
            .adapters()
            .filter(|(_, lora)| lora.portion == Portion::Whole)
            .map(|(module, _)| module)
            .collect(),
    };
    if let Some(score) = &config.score {
        write_atomic(&folder.join(LABELS), score.labels_text().as_bytes())?;
    }
    let modules: Vec<String> = modules.into_iter().map(name).collect();
    let named: Vec<&str> = modules.iter().map(String::as_str).collect();
    let config = &match &config.targets.modules {
        // An end of a name may be that of a module before the scores too.
        Modules::Names(_) if config.score.is_some() && decoder.spec.scoring.is_some() => {
            let adapted = decoder.adapters().map(|(module, _)| name(module));
            let targets = Targets::of(Modules::Names(adapted.collect()));
            LoraConfig {
                targets,
                ..config.clone()
            }
        }
        _ => config.clone(),
    };
    Ok(write_atomic(
        &folder.join(CONFIG),
        config_text(config, &named, decoder.spec.weight_order, base).as_bytes(),
    )?)
}

/// Returns the files of an adapter folder.
pub fn files(folder: &Path) -> [PathBuf; 2] {
    [folder.join(CONFIG), folder.join(WEIGHTS)]
}

/// Whether a folder has an adapter's config. A dangling link counts: reading it gives the error.
pub fn is_in(folder: &Path) -> bool {
    folder.join(CONFIG).symlink_metadata().is_ok()
}

/// Whether a folder has the tensors of an adapter of mlx-lm but not of PEFT.
pub fn is_of_mlx(folder: &Path) -> bool {
    folder.join("adapters.safetensors").exists() && !folder.join(WEIGHTS).exists()
}

/// Returns the modules with A and B in an open file, by their names without a prefix, and the two
/// keys.
pub fn pairs_in(archive: &Archive) -> Vec<(String, [String; 2])> {
    let keys = keys::Keys::read(archive.shapes().keys());
    let pair = |module: &str| {
        let [a, b] =
            ["lora_A", "lora_B"].map(|part| keys.key(&format!("{module}.{part}.weight")).cloned());
        Some((module.to_owned(), [a?, b?]))
    };
    keys.modules().into_iter().filter_map(pair).collect()
}

/// Returns the keys of an open file that differ from PEFT's, each with PEFT's name, for a model
/// with these modules.
pub fn renamed_in(archive: &Archive, modules: &[LinearSpec]) -> Vec<(String, String)> {
    let keys = keys::Keys::read(archive.shapes().keys()).on(modules);
    let renamed = keys
        .names()
        .filter_map(|name| Some((keys.key(name)?.clone(), format!("{}{name}", keys::PREFIX))));
    renamed.filter(|(key, name)| key != name).collect()
}

/// Reads `adapter_config.json` for a model with these modules. It uses the model's names, and takes
/// the tensors of the file as targets where the config's do not fit.
///
/// # Errors
/// As of [`read_config`] and [`open`]; or neither the config nor a tensor names one of these
/// modules.
pub fn read_config_on(folder: &Path, modules: &[LinearSpec]) -> Result<LoraConfig, AdapterError> {
    Ok(fitted::fitted(read_config(folder)?, &open(folder)?, modules)?.config)
}

/// Returns notes about parts of a folder that are ignored or reinterpreted; with modules, also
/// those for a model with them.
///
/// # Errors
/// As of [`read_config`], [`read_config_on`] and [`open`].
pub fn notes(folder: &Path, modules: Option<&[LinearSpec]>) -> Result<Vec<String>, AdapterError> {
    let (mut notes, archive) = (config::notes(folder)?, open(folder)?);
    match modules {
        None => notes.extend(keys::Keys::read(archive.shapes().keys()).notes()),
        Some(modules) => {
            let fitted = fitted::fitted(read_config(folder)?, &archive, modules)?;
            let bases = contents_in(&archive, &fitted.config, modules)?.bases;
            if modules
                .iter()
                .any(|linear| linear.order == WeightOrder::InOut)
            {
                notes.retain(|note| note != values::FAN_IN_FAN_OUT);
            }
            // The model without a head has other names in PEFT, which writes them so.
            let is_known =
                |note: &String| fitted.config.is_of_features && note.starts_with(keys::MOVED);
            notes.extend(fitted.notes.into_iter().filter(|note| !is_known(note)));
            if vocabulary::has_tokenizer(folder)? {
                notes.push(
                    "it brings a tokenizer of its own, which is used in place of the base's"
                        .to_owned(),
                );
            }
            notes.extend(bases.iter().map(|(module, key)| {
                format!(
                    "`{key}` is the base's table `{module}`, which PEFT saves with a resized \
                    vocabulary; where it differs from this base's it takes its place"
                )
            }));
        }
    }
    Ok(notes)
}
