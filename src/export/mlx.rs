//! An adapter as mlx-lm keeps it (<https://github.com/ml-explore/mlx-lm>, `tuner/lora.py` and
//! `tuner/utils.py`): y = x W + scale (x A) B with A [in, r] and B [r, out], one rank and one scale
//! for all modules, in the last `num_layers` layers.
//!
//! A module of lower rank is padded with columns and rows of zeros. If a module has another scale,
//! its B is multiplied by the difference, so that it adds the same.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::gguf::Written;
use crate::adapter::peft::{self, AdapterTensors, LastB};
use crate::adapter::{AdapterError, LoraConfig};
use crate::files::safetensors::{Archive, Named, write_f32};
use crate::files::{self, write_atomic};
use crate::model::{LinearKind, LinearSpec};

const WEIGHTS: &str = "adapters.safetensors";
const CONFIG: &str = "adapter_config.json";

/// Writes the files into `folder`. `base` is the name by which a reader finds the base,
/// `projections` are the base's modules.
///
/// The adapter is incomplete or not one of this base, or a file cannot be written.
/// # Errors
/// The adapter is not whole or not one of this base, or a file cannot be written.
pub fn write_mlx(
    adapter: &Path,
    base: &str,
    projections: &[LinearSpec],
    folder: &Path,
) -> Result<Written, AdapterError> {
    let (config, archive) = (
        peft::read_config_on(adapter, projections)?,
        peft::open(adapter)?,
    );
    let stored = peft::stored_in(&archive, &config, projections)?;
    if let Some(vector) = config.vector {
        return Err(AdapterError::NoPlace {
            format: "mlx-lm's",
            vector,
        });
    }
    if let Some(outside) = stored
        .iter()
        .find(|stored| place(&stored.target.module).is_none())
    {
        let message = format!(
            "`{}` is in no layer, and mlx-lm has adapters of layers only",
            outside.target.module
        );
        return Err(AdapterError::Config {
            place: archive.path().display().to_string(),
            message,
        });
    }
    let is_routed = |stored: &&AdapterTensors| {
        projections
            .iter()
            .any(|linear| linear.name == stored.target.module && linear.kind != LinearKind::Module)
    };
    if let Some(routed) = stored.iter().find(is_routed) {
        let message = format!(
            "`{}` is of one expert, and mlx-lm has one module for all experts of a layer",
            routed.target.module
        );
        return Err(AdapterError::Config {
            place: archive.path().display().to_string(),
            message,
        });
    }
    let rank = stored
        .iter()
        .map(|stored| stored.target.rank)
        .max()
        .unwrap_or(config.rank);
    let scale = stored.first().map_or(1.0, |first| first.target.scale);
    let mut tensors = Vec::new();
    for stored in &stored {
        tensors.extend(pair(stored, &archive, rank, scale)?);
    }
    let weights = folder.join(WEIGHTS);
    write_f32(&weights, &tensors, &[("format", "mlx".to_owned())])?;
    write_atomic(
        &folder.join(CONFIG),
        config_text(&config, &stored, projections, base, [rank as f64, scale]).as_bytes(),
    )?;
    let bytes = weights
        .metadata()
        .map_err(|cause| files::FileError::new("read", &weights, cause))?
        .len();
    Ok(Written {
        tensors: tensors.len(),
        bytes,
    })
}

/// Returns A and B of a module, transposed and padded to `rank`.
fn pair(
    stored: &AdapterTensors,
    archive: &Archive,
    rank: usize,
    scale: f64,
) -> Result<[Named; 2], AdapterError> {
    let (module, own_rank) = (&stored.target.module, stored.target.rank);
    let [a, b] = stored.read(archive, &LastB::default())?;
    let (inputs, outputs) = (a.len() / own_rank, b.len() / own_rank);
    let missing = stored.target.scale / scale;
    let (mut wide_a, mut wide_b) = (vec![0.0; inputs * rank], vec![0.0; rank * outputs]);
    for k in 0..own_rank {
        (0..inputs).for_each(|row| wide_a[row * rank + k] = a[k * inputs + row]);
        (0..outputs).for_each(|column| {
            wide_b[k * outputs + column] = (f64::from(b[column * own_rank + k]) * missing) as f32;
        });
    }
    Ok([
        (format!("{module}.lora_a"), vec![inputs, rank], wide_a),
        (format!("{module}.lora_b"), vec![rank, outputs], wide_b),
    ])
}

/// Returns the text of the config. mlx-lm makes adapters for all modules of these names in the last
/// layers; one without tensors adds nothing, since its B is zero.
fn config_text(
    config: &LoraConfig,
    stored: &[AdapterTensors],
    projections: &[LinearSpec],
    base: &str,
    [rank, scale]: [f64; 2],
) -> String {
    let places: Vec<(usize, &str)> = stored
        .iter()
        .filter_map(|stored| place(&stored.target.module))
        .collect();
    let layers = projections
        .iter()
        .filter_map(|linear| place(&linear.name))
        .map(|(layer, _)| layer + 1)
        .max()
        .unwrap_or(0);
    let lowest = places.iter().map(|(layer, _)| *layer).min().unwrap_or(0);
    let keys: BTreeSet<&str> = places.iter().map(|(_, name)| *name).collect();
    let value = json!({
        "fine_tune_type": "lora",
        "lora_parameters": {
            "dropout": config.dropout,
            "keys": keys,
            "rank": rank as usize,
            "scale": scale,
        },
        "model": base,
        "num_layers": layers - lowest,
    });
    format!("{value:#}\n")
}

/// Returns the layer of a module and its name within the layer.
fn place(module: &str) -> Option<(usize, &str)> {
    let (layer, name) = module.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, name))
}
