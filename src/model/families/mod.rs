//! config.json to [`DecoderSpec`], one file a family; `model_type` is matched here and nowhere else.

mod deepseek;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gpt_oss;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
mod smollm3;

use super::Error;
use super::config::{Config, list};
use super::layout::Names;
use super::spec::{
    DecoderSpec, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LatentSpec, LayerSpec, Modules, NormKind, NormPlacement,
    PlainSpec, QueryKeyNorm,
};
use crate::nn::attention::Span;
use crate::nn::experts::{RouterGroups, RouterScore, RouterSpec};

/// What reads the config of a family.
type Reader = fn(&Config) -> Result<DecoderSpec, Error>;

const KNOWN: [(&str, Reader); 17] = [
    ("deepseek_v2", deepseek::second),
    ("deepseek_v3", deepseek::third),
    ("falcon", falcon::spec),
    ("gemma", gemma::spec),
    ("gemma2", gemma2::spec),
    ("gemma3_text", gemma3_text::spec),
    ("gpt_oss", gpt_oss::spec),
    ("granite", granite::spec),
    ("llama", llama::spec),
    ("mistral", mistral::spec),
    ("mixtral", mixtral::spec),
    ("olmo2", olmo2::spec),
    ("phi3", phi3::spec),
    ("qwen2", qwen2::spec),
    ("qwen3", qwen3::spec),
    ("qwen3_moe", qwen3_moe::spec),
    ("smollm3", smollm3::spec),
];
/// Who packed the weights of a base that is stored packed.
const PACKERS: [&str; 2] = ["bitsandbytes", "mxfp4"];
/// More layers than any model has, and few enough to be described before the weights are looked at.
const MAX_LAYERS: usize = 10_000;

/// The decoder that a config.json describes.
pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    if let Some(stored) = config.section("quantization_config")? {
        let is_old = stored.flag("load_in_4bit", false)? || stored.flag("load_in_8bit", false)?;
        let method = stored.text("quant_method")?.unwrap_or(if is_old { PACKERS[0] } else { "missing" });
        if !PACKERS.contains(&method) {
            let message = format!("`quant_method` of `quantization_config` is `{method}`, known are {}", list(&PACKERS));
            return Err(config.fault(message));
        }
    }
    let reader = |config: &Config| {
        let family = config.text("model_type")?.unwrap_or("missing").to_owned();
        Ok::<_, Error>((KNOWN.iter().find(|(known, _)| *known == family).map(|(_, read)| *read), family))
    };
    let (read, family) = reader(config)?;
    if let Some(read) = read {
        return read(config);
    }
    let known = list(&KNOWN.map(|(known, _)| known));
    let Some(text) = config.section("text_config")? else {
        return Err(config.fault(format!("`model_type` is `{family}`, known are {known}")));
    };
    match reader(&text)? {
        (Some(read), _) => Ok(DecoderSpec { names: Names::WRAPPED, ..read(&text.with_absent(config, "tie_word_embeddings"))? }),
        (None, inner) => {
            Err(config.fault(format!("`model_type` is `{family}`, and that of its `text_config` `{inner}`, known are {known}")))
        }
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
    let layers = (0..layers).map(layer).collect::<Result<Vec<_>, Error>>()?;
    layers.iter().filter_map(|layer| layer.mlp.experts()).try_for_each(|experts| check_router(config, &experts.router))?;
    Ok(DecoderSpec {
        tied_head: config.flag("tie_word_embeddings", false)?,
        norm_epsilon: config.number_or_none("rms_norm_eps")?.unwrap_or(1e-6),
        context: config.size_or_none("max_position_embeddings")?.unwrap_or(context),
        padding: padding(config, None)?,
        ..DecoderSpec::new(config.size("vocab_size")?, config.size("hidden_size")?, layers)
    })
}

/// The token of padding; `default` is what transformers takes where the key is absent. As in torch a negative one counts from the end, and
/// one that the vocabulary has not is none.
fn padding(config: &Config, default: Option<isize>) -> Result<Option<u32>, Error> {
    let vocabulary = config.size("vocab_size")?;
    let id = if config.has("pad_token_id") { config.token("pad_token_id")? } else { default };
    let from_start = |id: isize| if id < 0 { vocabulary.checked_add_signed(id) } else { usize::try_from(id).ok() };
    Ok(id.and_then(from_start).filter(|id| *id < vocabulary).and_then(|id| u32::try_from(id).ok()))
}

/// More experts than any layer has.
const MAX_EXPERTS: usize = 512;

/// A router that cannot choose so many is refused.
fn check_router(config: &Config, router: &RouterSpec) -> Result<(), Error> {
    let RouterSpec { experts, chosen, .. } = *router;
    if experts > MAX_EXPERTS || chosen > experts {
        return Err(config.fault(format!("a layer has {experts} experts, of which a token is sent to {chosen}, expected at most {MAX_EXPERTS} and no more than there are")));
    }
    let Some(RouterGroups { count, chosen: groups }) = router.groups else { return Ok(()) };
    if !experts.is_multiple_of(count) || groups > count || groups * (experts / count) < chosen {
        return Err(config.fault(format!(
            "`n_group` is {count}, of which `topk_group`, {groups}, are looked at: {experts} experts do not divide so, or {chosen} cannot be chosen from them"
        )));
    }
    Ok(())
}

/// With the coefficient of the load-balancing loss, which transformers adds where `output_router_logits` says so.
fn router_aux(config: &Config, spec: DecoderSpec) -> Result<DecoderSpec, Error> {
    let is_on = config.flag("output_router_logits", false)?;
    let coefficient = config.number_or_zero("router_aux_loss_coef")?.unwrap_or(0.001);
    Ok(DecoderSpec { router_aux_loss_coef: if is_on { coefficient } else { 0.0 }, ..spec })
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
