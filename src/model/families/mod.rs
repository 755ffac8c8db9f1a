//! config.json to [`DecoderSpec`], one file a family; `model_type` is matched here and nowhere else.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;

use super::Error;
use super::config::{Config, list};
use super::spec::{DecoderSpec, GatedSpec, GroupedSpec, LayerSpec};
use crate::nn::attention::Span;

const KNOWN: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
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
        "llama" => llama::spec(config),
        "mistral" => mistral::spec(config),
        "qwen2" => qwen2::spec(config),
        "qwen3" => qwen3::spec(config),
        other => Err(config.fault(format!("`model_type` is `{other}`, known are {}", list(&KNOWN)))),
    }
}

/// What the four families share; `attention` makes layer `index`.
fn decoder(
    config: &Config,
    context: usize,
    attention: impl Fn(usize) -> Result<GroupedSpec, Error>,
) -> Result<DecoderSpec, Error> {
    config.only("hidden_act", &["silu"])?;
    if let Some(share) = config.get("attention_dropout").and_then(serde_json::Value::as_f64).filter(|share| *share > 0.0) {
        return Err(config.fault(format!("`attention_dropout` is {share}, known is 0")));
    }
    let mlp = GatedSpec { inner: config.size("intermediate_size")?, bias: config.flag("mlp_bias", false)? };
    let layers = config.size("num_hidden_layers")?;
    if layers > MAX_LAYERS {
        return Err(config.fault(format!("`num_hidden_layers` is `{layers}`, expected at most {MAX_LAYERS}")));
    }
    let layer = |index| Ok(LayerSpec { mixer: attention(index)?, mlp: mlp.clone() });
    Ok(DecoderSpec {
        vocabulary: config.size("vocab_size")?,
        width: config.size("hidden_size")?,
        tied_head: config.flag("tie_word_embeddings", false)?,
        layers: (0..layers).map(layer).collect::<Result<_, Error>>()?,
        norm_epsilon: config.number_or_none("rms_norm_eps")?.unwrap_or(1e-6),
        context: config.size_or_none("max_position_embeddings")?.unwrap_or(context),
    })
}

/// Head counts that divide, and an even head width.
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Reads them; `kv_default` is what transformers takes where the key is absent (`None`: as many as heads).
fn heads(config: &Config, kv_default: Option<usize>, dim_default: Option<usize>) -> Result<Heads, Error> {
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
    Ok(Heads { heads, kv_heads, head_dim })
}

/// The span of layer `index` where `layer_types`, or `use_sliding_window` with `max_window_layers`, decides (Qwen).
fn span_by_layer(config: &Config, index: usize) -> Result<Span, Error> {
    let window = if config.flag("use_sliding_window", false)? { config.size_or_none("sliding_window")? } else { None };
    let Some(window) = window else { return Ok(Span::Full) };
    let kinds = config.get("layer_types").and_then(serde_json::Value::as_array);
    let sliding = match kinds.map(|kinds| kinds.get(index).and_then(serde_json::Value::as_str)) {
        Some(Some("sliding_attention")) => true,
        Some(Some("full_attention")) => false,
        Some(other) => {
            let found = other.unwrap_or("missing");
            return Err(config
                .fault(format!("`layer_types` of layer {index} is `{found}`, known are `full_attention`, `sliding_attention`")));
        }
        None => index >= config.size_or_none("max_window_layers")?.unwrap_or(28),
    };
    Ok(if sliding { Span::Sliding { window } } else { Span::Full })
}
