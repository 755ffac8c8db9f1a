//! config.json to [`DecoderSpec`], one file a family; `model_type` is matched here and nowhere else.

mod gemma;
mod gemma2;
mod gemma3_text;
mod granite;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod smollm3;

use super::Error;
use super::config::{Config, list};
use super::spec::{DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, Modules, NormPlacement, QueryKeyNorm};
use crate::nn::attention::Span;

const KNOWN: [&str; 11] =
    ["gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"];
/// Who packed the weights of a base that is stored packed.
const BITSANDBYTES: &str = "bitsandbytes";
/// More layers than any model has, and few enough to be described before the weights are looked at.
const MAX_LAYERS: usize = 10_000;

/// The decoder that a config.json describes.
pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    if let Some(stored) = config.section("quantization_config")? {
        let is_old = stored.flag("load_in_4bit", false)? || stored.flag("load_in_8bit", false)?;
        let method = stored.text("quant_method")?.unwrap_or(if is_old { BITSANDBYTES } else { "missing" });
        if method != BITSANDBYTES {
            let message = format!("`quant_method` of `quantization_config` is `{method}`, known is `{BITSANDBYTES}`");
            return Err(config.fault(message));
        }
    }
    match config.text("model_type")?.unwrap_or("") {
        "gemma" => gemma::spec(config),
        "gemma2" => gemma2::spec(config),
        "gemma3_text" => gemma3_text::spec(config),
        "granite" => granite::spec(config),
        "llama" => llama::spec(config),
        "mistral" => mistral::spec(config),
        "olmo2" => olmo2::spec(config),
        "phi3" => phi3::spec(config),
        "qwen2" => qwen2::spec(config),
        "qwen3" => qwen3::spec(config),
        "smollm3" => smollm3::spec(config),
        other => Err(config.fault(format!("`model_type` is `{other}`, known are {}", list(&KNOWN)))),
    }
}

/// What families share; `layer` makes layer `index`.
fn decoder(config: &Config, context: usize, layer: impl Fn(usize) -> Result<LayerSpec, Error>) -> Result<DecoderSpec, Error> {
    if let Some(share) = config.get("attention_dropout").and_then(serde_json::Value::as_f64).filter(|share| *share > 0.0) {
        return Err(config.fault(format!("`attention_dropout` is {share}, known is 0")));
    }
    let layers = config.size("num_hidden_layers")?;
    if layers > MAX_LAYERS {
        return Err(config.fault(format!("`num_hidden_layers` is `{layers}`, expected at most {MAX_LAYERS}")));
    }
    let layers = (0..layers).map(layer).collect::<Result<_, Error>>()?;
    Ok(DecoderSpec {
        tied_head: config.flag("tie_word_embeddings", false)?,
        norm_epsilon: config.number_or_none("rms_norm_eps")?.unwrap_or(1e-6),
        context: config.size_or_none("max_position_embeddings")?.unwrap_or(context),
        ..DecoderSpec::new(config.size("vocab_size")?, config.size("hidden_size")?, layers)
    })
}

/// A layer with a gate of `SiLU`.
fn plain(config: &Config, mixer: GroupedSpec) -> Result<LayerSpec, Error> {
    config.only("hidden_act", &["silu"])?;
    let gate = GatedSpec::new(config.size("intermediate_size")?);
    Ok(LayerSpec::new(mixer, GatedSpec { bias: config.flag("mlp_bias", false)?, ..gate }))
}

/// Whether layer `index` has a window by `layer_types`; `None` where they are not listed.
fn kind_of_layer(config: &Config, index: usize) -> Result<Option<bool>, Error> {
    let Some(kinds) = config.get("layer_types").and_then(serde_json::Value::as_array) else { return Ok(None) };
    match kinds.get(index).and_then(serde_json::Value::as_str) {
        Some("sliding_attention") => Ok(Some(true)),
        Some("full_attention") => Ok(Some(false)),
        other => {
            let found = other.unwrap_or("missing");
            let known = "known are `full_attention`, `sliding_attention`";
            Err(config.fault(format!("`layer_types` of layer {index} is `{found}`, {known}")))
        }
    }
}

/// Query heads, key heads that divide them, and the even width of a head; `kv_default` is what transformers takes where the key is absent
/// (`None`: as many as heads).
fn heads(config: &Config, kv_default: Option<usize>, dim_default: Option<usize>) -> Result<[usize; 3], Error> {
    let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let absent = if config.has("num_key_value_heads") { None } else { kv_default };
    let kv_heads = config.size_or_none("num_key_value_heads")?.or(absent).unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(
            config.fault(format!("`num_attention_heads` is {heads}, not a multiple of `num_key_value_heads`, {kv_heads}"))
        );
    }
    let head_dim = match config.size_or_none("head_dim")?.or(dim_default) {
        Some(head_dim) => head_dim,
        None if width % heads == 0 => width / heads,
        None => return Err(config.fault(format!("`hidden_size` is {width}, not a multiple of `num_attention_heads`, {heads}"))),
    };
    if head_dim % 2 != 0 {
        return Err(config.fault(format!("`head_dim` is {head_dim}, expected an even number: rotation works on pairs")));
    }
    Ok([heads, kv_heads, head_dim])
}

/// The span of layer `index` where `layer_types`, or `use_sliding_window` with `max_window_layers`, decides (Qwen).
fn span_by_layer(config: &Config, index: usize) -> Result<Span, Error> {
    let window = if config.flag("use_sliding_window", false)? { config.size_or_none("sliding_window")? } else { None };
    let Some(window) = window else { return Ok(Span::Full) };
    let slides = match kind_of_layer(config, index)? {
        Some(slides) => slides,
        None => index >= config.size_or_none("max_window_layers")?.unwrap_or(28),
    };
    Ok(if slides { Span::Sliding { window } } else { Span::Full })
}
