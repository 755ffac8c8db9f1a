//! What consumers take of a base, which does not depend on its adapter.

use std::path::Path;

use serde_json::Value;

use super::{Consumer, Finding};
use crate::export::{gguf, ollama};
use crate::fault::Explain;
use crate::files::{JSON_BYTES, read_text_up_to};
use crate::model::Folder;

/// Architectures whose code in mlx-lm (0.32.2, `models/llama.py` and `models/qwen2.py`) reads `rope_theta` and `rope_scaling` and not
/// `rope_parameters`, and the theta that it takes then.
const MLX_OLD_KEYS: [(&str, f64); 2] = [("llama", 1e4), ("qwen2", 1e6)];

/// What a consumer does with models made from the base in `folder`; `source` is the chat template, where it is not the folder's own. Nothing
/// is written, and no weights are read.
pub fn model_findings(consumer: Consumer, folder: &Path, source: Option<&str>) -> Vec<Finding> {
    let found = match consumer {
        Consumer::Vllm | Consumer::Peft => [None, None],
        Consumer::Mlx => [mlx_rope(folder), None],
        Consumer::LlamaCpp | Consumer::LmStudio => [told(consumer, folder), None],
        Consumer::Ollama => [told(consumer, folder), proven(folder, source)],
    };
    found.into_iter().flatten().collect()
}

/// Whether a GGUF file can be made of it.
fn told(consumer: Consumer, folder: &Path) -> Option<Finding> {
    let error = gguf::check_model(folder).err()?;
    Some(Finding::rejects(format!("{} cannot be given this base: {error}", consumer.name()), error.hint().unwrap_or_default()))
}

/// Whether a template of Ollama's is known that renders as the chat template does.
fn proven(folder: &Path, source: Option<&str>) -> Option<Finding> {
    let error = ollama::prove(folder, source, None).err()?;
    let (words, next) = (format!("Ollama cannot be given this chat template: {error}"), error.hint().unwrap_or_default());
    // A template of the user's may still do.
    let is_mended_later = matches!(error, ollama::Error::Different { .. });
    Some(if is_mended_later { Finding::changes(words, next) } else { Finding::rejects(words, next) })
}

/// Whether mlx-lm computes another RoPE than the base has.
fn mlx_rope(folder: &Path) -> Option<Finding> {
    let name = gguf::architecture_name(&Folder::open(folder).ok()?.spec).ok()?;
    let (_, theta) = MLX_OLD_KEYS.into_iter().find(|(known, _)| *known == name)?;
    let config: Value = serde_json::from_str(&read_text_up_to(&folder.join("config.json"), JSON_BYTES).ok()?).ok()?;
    let rope = config["rope_parameters"].as_object()?;
    let is_default = rope.get("rope_type").is_none_or(|kind| kind == "default")
        && rope.get("rope_theta").and_then(Value::as_f64).is_none_or(|own| own.to_bits() == theta.to_bits());
    let has_old_keys = !config["rope_theta"].is_null() || !config["rope_scaling"].is_null();
    (!is_default && !has_old_keys).then(|| {
        let words = "mlx-lm reads `rope_theta` and `rope_scaling` of such a base's config.json, which has only `rope_parameters`: it computes another RoPE";
        Finding::changes(words, "give it a copy of the base whose config.json has both, as transformers 4 writes them")
    })
}
