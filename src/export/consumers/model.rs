//! Checks of a base by consumer, independent of its adapter.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Consumer, Finding};
use crate::data::tokenize::Tokenizer;
use crate::export::{gguf, ollama};
use crate::fault::Explain;
use crate::files::{JSON_BYTES, read_text_up_to};
use crate::model::{Folder, LayerSpec};
use crate::nn::attention::Span;

/// Values of `model_type` whose code in mlx-lm (0.32.2, `models/*.py`) reads `rope_theta` and
/// `rope_scaling` but not `rope_parameters`, with the theta that it uses then. If there is none,
/// mlx-lm does not load the base.
const MLX_OLD_KEYS: [(&str, Option<f64>); 12] = [
    ("gemma", Some(1e4)),
    ("gemma2", Some(1e4)),
    ("gemma3_text", Some(1e6)),
    ("granite", None),
    ("llama", Some(1e4)),
    ("mistral", Some(1e4)),
    ("mixtral", Some(1e6)),
    ("olmo2", Some(1e4)),
    ("phi3", Some(1e4)),
    ("qwen2", Some(1e6)),
    ("qwen3_moe", None),
    ("smollm3", Some(1e4)),
];
/// The theta that mlx-lm uses for layers with a window that have their own rotation.
const MLX_LOCAL_THETA: f64 = 1e4;
/// Values of `model_type` whose code in mlx-lm has sliding windows: in all layers except every
/// n-th, or in those that `layer_types` names.
const MLX_WINDOWS_BY_PERIOD: [&str; 1] = ["gemma3_text"];
const MLX_WINDOWS_BY_LAYER: [&str; 3] = ["llama", "mistral", "smollm3"];

/// Returns a consumer's findings on models made from the base in `folder`. `tokenizer` and the chat
/// template `source` are given if they are not the folder's own. Nothing is written, and no weights
/// are read.
pub fn model_findings(
    consumer: Consumer,
    folder: &Path,
    (tokenizer, source): (Option<&Tokenizer>, Option<&str>),
) -> Vec<Finding> {
    let found = match consumer {
        Consumer::Vllm | Consumer::Peft => [None, None],
        Consumer::Mlx => [mlx_rope(folder), mlx_window(folder)],
        Consumer::LlamaCpp | Consumer::LmStudio => [told(consumer, folder), None],
        Consumer::Ollama => [told(consumer, folder), proven(folder, tokenizer, source)],
    };
    found.into_iter().flatten().collect()
}

/// Checks that a GGUF file can be made of it.
fn told(consumer: Consumer, folder: &Path) -> Option<Finding> {
    let error = gguf::check_model(folder).err()?;
    Some(Finding::rejects(
        format!("{} cannot be given this base: {error}", consumer.name()),
        error.hint().unwrap_or_default(),
    ))
}

/// Checks that a known Ollama template renders like the chat template.
fn proven(folder: &Path, tokenizer: Option<&Tokenizer>, source: Option<&str>) -> Option<Finding> {
    let proof = match tokenizer {
        None => ollama::prove(folder, source, None),
        Some(tokenizer) => ollama::prove_with(tokenizer, (folder, source), None),
    };
    let error = proof.err()?;
    let (words, next) = (
        format!("Ollama cannot be given this chat template: {error}"),
        error.hint().unwrap_or_default(),
    );
    // A template of the user's may still do.
    let is_mended_later = matches!(error, ollama::OllamaError::Different { .. });
    Some(if is_mended_later {
        Finding::changes(words, next)
    } else {
        Finding::rejects(words, next)
    })
}

fn config_of(folder: &Path) -> Option<Value> {
    serde_json::from_str(&read_text_up_to(&folder.join("config.json"), JSON_BYTES).ok()?).ok()
}

/// Checks that mlx-lm computes the base's RoPE.
fn mlx_rope(folder: &Path) -> Option<Finding> {
    let config = config_of(folder)?;
    let (_, theta) = MLX_OLD_KEYS
        .into_iter()
        .find(|(known, _)| config["model_type"] == *known)?;
    let rope = config["rope_parameters"].as_object()?;
    let is = |rope: &Map<String, Value>, theta: f64| {
        rope.get("rope_type").is_none_or(|kind| kind == "default")
            && rope
                .get("rope_theta")
                .and_then(Value::as_f64)
                .is_none_or(|own| own.to_bits() == theta.to_bits())
    };
    let of = |kind: &str| rope.get(kind).and_then(Value::as_object);
    let local = of("sliding_attention").is_none_or(|local| is(local, MLX_LOCAL_THETA));
    let is_default =
        theta.is_some_and(|theta| local && is(of("full_attention").unwrap_or(rope), theta));
    let has_old_keys = !config["rope_theta"].is_null() || !config["rope_scaling"].is_null();
    let next = "give it a copy of the base whose config.json has both, as transformers 4 writes \
        them";
    match theta {
        _ if is_default || has_old_keys => None,
        Some(_) => {
            let words = "mlx-lm reads `rope_theta` and `rope_scaling` of such a base's \
                config.json, which has only `rope_parameters`: it computes another RoPE";
            Some(Finding::changes(words, next))
        }
        None => {
            let words = "mlx-lm needs `rope_theta` in such a base's config.json, which has only \
                `rope_parameters`: it does not load it";
            Some(Finding::changes(words, next))
        }
    }
}

/// Checks that mlx-lm applies the base's sliding windows.
fn mlx_window(folder: &Path) -> Option<Finding> {
    let (config, spec) = (config_of(folder)?, Folder::open(folder).ok()?.spec);
    let slides = |layer: &LayerSpec| layer.mixer.span().is_window();
    let window = spec
        .layers
        .iter()
        .find_map(|layer| match layer.mixer.span() {
            Span::Sliding { window } => Some(window),
            Span::Full | Span::Document | Span::Around { .. } => None,
        })?;
    let is_one_of = |known: &[&str]| known.iter().any(|known| config["model_type"] == **known);
    let period = config["sliding_window_pattern"]
        .as_u64()
        .and_then(|period| usize::try_from(period).ok())
        .unwrap_or(6)
        .max(1);
    let is_periodic = || {
        spec.layers
            .iter()
            .enumerate()
            .all(|(index, layer)| slides(layer) != (index + 1).is_multiple_of(period))
    };
    let has = (is_one_of(&MLX_WINDOWS_BY_PERIOD) && is_periodic())
        || (is_one_of(&MLX_WINDOWS_BY_LAYER) && config["layer_types"].is_array());
    (!has).then(|| {
        let words = format!(
            "mlx-lm computes no such sliding windows: beyond {window} tokens its answers \
            differ from those of the base"
        );
        Finding::changes(
            words,
            "keep prompts and answers shorter, or serve it otherwise",
        )
    })
}
