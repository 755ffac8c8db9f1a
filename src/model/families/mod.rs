//! Turns config.json into a [`DecoderSpec`], with one file per family; `model_type` is matched here
//! and nowhere else.

mod bert;
mod class;
mod cohere2;
mod deepseek;
mod ernie4_5;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gemma4;
mod glm4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod granite_hybrid;
mod granitemoe;
mod hunyuan;
mod lfm2;
mod lfm3;
mod llama;
mod ministral3;
mod mistral;
mod mixtral;
mod modernbert;
mod nanochat;
mod near;
mod nemotron;
mod olmo2;
mod olmo3;
mod olmoe;
mod phi;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_moe;
mod rope;
mod seed_oss;
mod smollm3;
mod span;
mod stablelm;
mod starcoder2;
mod wrapper;

use serde_json::Value;

pub(super) use class::Class;
use span::{kind_of_layer, span_by_layer};
use wrapper::Wrapper;

use super::ModelError;
use super::config::{ConfigJson, list};
use super::layout::{Names, WeightOrder};
use super::spec::{
    DecoderSpec, EmbeddingNorm, ExpertForm, ExpertsSpec, GatedAndExpertsSpec, GatedSpec,
    GroupedSpec, KeyValues, LatentSpec, LayerSpec, MixerSpec, MlpSpec, Modules, NormKind,
    NormPlacement, PerLayerInputSpec, PlainActivation, PlainSpec, QueryKeyNorm, ScoreLayerSpec,
    ScoreSpec, ScoringSpec, SharedExpertSpec, StackNames,
};
use crate::nn::attention::Span;
use crate::nn::experts::{RouterGroups, RouterScore, RouterSpec};

/// A function that reads a family's config.
type Reader = fn(&ConfigJson) -> Result<DecoderSpec, ModelError>;

const KNOWN: [(&str, Reader); 47] = [
    ("bert", bert::bert),
    ("cohere2", cohere2::spec),
    ("deepseek_v2", deepseek::second),
    ("deepseek_v3", deepseek::third),
    ("ernie4_5", ernie4_5::spec),
    ("exaone4", exaone4::spec),
    ("falcon", falcon::spec),
    ("gemma", gemma::spec),
    ("gemma2", gemma2::spec),
    ("gemma3_text", gemma3_text::spec),
    ("gemma4_text", gemma4::spec),
    ("gemma4_unified_text", gemma4::spec),
    ("glm4", glm4::spec),
    ("gpt2", gpt2::spec),
    ("gpt_neox", gpt_neox::spec),
    ("gpt_oss", gpt_oss::spec),
    ("granite", granite::spec),
    ("granitemoe", granitemoe::spec),
    ("granitemoehybrid", granite_hybrid::spec),
    ("hunyuan_v1_dense", hunyuan::spec),
    ("lfm2", lfm2::spec),
    ("lfm3", lfm3::spec),
    ("llama", llama::spec),
    ("ministral", mistral::by_layer),
    ("ministral3", ministral3::spec),
    ("mistral", mistral::spec),
    ("mixtral", mixtral::spec),
    ("modernbert", modernbert::spec),
    ("nanochat", nanochat::spec),
    ("nemotron", nemotron::spec),
    ("olmo2", olmo2::spec),
    ("olmo3", olmo3::spec),
    ("olmoe", olmoe::spec),
    ("phi", phi::spec),
    ("phi3", phi3::spec),
    ("qwen2", qwen2::spec),
    ("qwen2_moe", qwen2_moe::spec),
    ("qwen3", qwen3::spec),
    ("qwen3_5_moe_text", qwen3_5_moe::spec),
    ("qwen3_5_text", qwen3_5::spec),
    ("qwen3_moe", qwen3_moe::spec),
    ("roberta", bert::roberta),
    ("seed_oss", seed_oss::spec),
    ("smollm3", smollm3::spec),
    ("stablelm", stablelm::spec),
    ("starcoder2", starcoder2::spec),
    ("xlm-roberta", bert::roberta),
];
/// Decoders that exist in wrappers only.
const WRAPPED: [(&str, Reader); 2] = [
    ("qwen2_5_vl_text", qwen2::in_wrapper),
    ("qwen2_vl_text", qwen2::in_wrapper),
];
/// Families with keys of their own for sizes, and the usual ones.
const RENAMED: [(&str, &[(&str, &str)]); 2] =
    [("gpt2", &gpt2::KEYS), ("modernbert", &modernbert::KEYS)];
/// Quantization methods of packed bases.
const PACKERS: [&str; 2] = ["bitsandbytes", "mxfp4"];
/// The most layers: more than any model has, and few enough to be described before the weights are
/// read.
const MAX_LAYERS: usize = 10_000;
/// Dropout and noise that act in training only. A base with them computes the same as one without;
/// whether it trains the same is for the plan to judge.
const IN_TRAINING: [&str; 11] = [
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "resid_pdrop",
    "residual_dropout",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
    "router_jitter_noise",
];

/// Keys of ε of norms, of which a class has one; the others have `rms_norm_eps`.
const EPSILONS: [&str; 4] = [
    "layer_norm_epsilon",
    "layer_norm_eps",
    "norm_epsilon",
    "norm_eps",
];

/// The contents of a config.json.
#[derive(Debug)]
pub(super) struct Described {
    /// The spec of the decoder.
    pub spec: DecoderSpec,
    /// Keys that the file does not name, with the defaults of transformers.
    pub filled: Vec<(String, Value)>,
    /// Dropout and noise above 0 that act in training only.
    pub in_training: Vec<(String, f64)>,
}

impl Described {
    /// Whether the file does not say if head and embedding are tied.
    pub fn is_tied_by_default(&self) -> bool {
        self.spec.tied_head
            && self
                .filled
                .iter()
                .any(|(key, _)| key == "tie_word_embeddings")
    }
}

/// Reads the decoder that a config.json describes.
pub(super) fn describe(config: ConfigJson) -> Result<Described, ModelError> {
    check_packer(&config)?;
    let family = config.text("model_type")?.unwrap_or("missing").to_owned();
    if let Some(wrapper) = Wrapper::of(&family) {
        return wrapped(&config, &family, wrapper);
    }
    // As transformers 5 does: with a list of layers a Mistral is a Ministral.
    let family = if family == "mistral" && config.names("layer_types") {
        "ministral".to_owned()
    } else {
        family
    };
    let Some((read, class)) = reader(&KNOWN, &family) else {
        return Err(unknown(&config, &family));
    };
    let config = RENAMED
        .iter()
        .filter(|(renamed, _)| *renamed == family)
        .fold(config, |config, (_, keys)| config.renamed(keys));
    let config = config.of_class(class)?;
    described(&config, read)
}

/// Reads the text decoder of a multimodal model.
fn wrapped(config: &ConfigJson, family: &str, wrapper: &Wrapper) -> Result<Described, ModelError> {
    let (text, inner) = wrapper.text(config)?;
    let Some((read, class)) = reader(&KNOWN, &inner).or_else(|| reader(&WRAPPED, &inner)) else {
        let message = format!(
            "`model_type` is `{family}`, and that of its `text_config` `{inner}`, known are {}",
            known()
        );
        return Err(near_to(config.fault(message), &inner));
    };
    if inner == "mistral" && text.names("layer_types") {
        return Err(config.fault(
            "`layer_types` of `text_config` is set, known is a `mistral` without: \
            transformers passes over it here",
        ));
    }
    let text = text.of_class(class)?;
    let tied_head = wrapper.is_tied(config, &text)?;
    let mut described = described(&text, read)?;
    described.spec = DecoderSpec {
        tied_head,
        names: Wrapper::names(family),
        ..described.spec
    };
    described
        .filled
        .retain(|(key, _)| key != "tie_word_embeddings");
    if !config.names("tie_word_embeddings") && !text.names("tie_word_embeddings") {
        described
            .filled
            .push(("tie_word_embeddings".to_owned(), Value::Bool(tied_head)));
    }
    Ok(described)
}

fn reader(known: &[(&str, Reader)], family: &str) -> Option<(Reader, &'static Class)> {
    let (_, read) = known.iter().find(|(known, _)| *known == family)?;
    Some((*read, Class::of(family)?))
}

fn known() -> String {
    list(&KNOWN.map(|(known, _)| known))
}

fn unknown(config: &ConfigJson, family: &str) -> ModelError {
    let message = format!("`model_type` is `{family}`, known are {}", known());
    let of_wrapper = || {
        format!(
            "{message}; of models with a `text_config` {}",
            list(&Wrapper::known())
        )
    };
    let error = config.fault(if config.names("text_config") {
        of_wrapper()
    } else {
        message
    });
    near_to(error, family)
}

/// Adds to an error what is near to a family that is not known.
fn near_to(error: ModelError, family: &str) -> ModelError {
    let known: Vec<&str> = KNOWN
        .iter()
        .map(|(known, _)| *known)
        .chain(Wrapper::known())
        .collect();
    match error {
        ModelError::Config { path, message, .. } => ModelError::Config {
            path,
            message,
            hint: near::hint(family, &known),
        },
        error => error,
    }
}

fn check_packer(config: &ConfigJson) -> Result<(), ModelError> {
    let Some(stored) = config.section("quantization_config")? else {
        return Ok(());
    };
    let is_old = stored.flag("load_in_4bit", false)? || stored.flag("load_in_8bit", false)?;
    let method =
        stored
            .text("quant_method")?
            .unwrap_or(if is_old { PACKERS[0] } else { "missing" });
    if PACKERS.contains(&method) {
        return Ok(());
    }
    Err(config.fault(format!(
        "`quant_method` of `quantization_config` is `{method}`, known are {}",
        list(&PACKERS)
    )))
}

fn described(config: &ConfigJson, read: Reader) -> Result<Described, ModelError> {
    check_every(config)?;
    let (spec, in_training) = (read(config)?, in_training(config)?);
    Ok(Described {
        filled: filled(config, &spec),
        spec,
        in_training,
    })
}

/// Checks keys that any config may have and that change what every decoder computes.
fn check_every(config: &ConfigJson) -> Result<(), ModelError> {
    config.not_null("is_causal", "true")?;
    if !config.flag("is_causal", true)? {
        return Err(config.fault("`is_causal` is `false`, known is `true`"));
    }
    match config.section("per_layer_config")? {
        // A family that has such reads them itself.
        Some(_) if config.knows("per_layer_config") => Ok(()),
        Some(layers) if layers.keys().next().is_some() => Err(config.fault(
            "`per_layer_config` gives layers values of their own, known is one value for all",
        )),
        _ => Ok(()),
    }
}

/// Returns dropout and noise above 0 among the class's own keys.
fn in_training(config: &ConfigJson) -> Result<Vec<(String, f64)>, ModelError> {
    let of_class = IN_TRAINING.iter().filter(|key| config.knows(key));
    let read = |key: &&str| {
        Ok::<_, ModelError>((
            (*key).to_owned(),
            config.number_or_zero(key)?.unwrap_or(0.0),
        ))
    };
    let values = of_class.map(read).collect::<Result<Vec<_>, ModelError>>()?;
    Ok(values
        .into_iter()
        .filter(|(_, value)| *value > 0.0)
        .collect())
}

/// Returns the keys that were filled, with the heads that follow from other keys.
fn filled(config: &ConfigJson, spec: &DecoderSpec) -> Vec<(String, Value)> {
    let mut filled = config.filled();
    if rope::names_base(config) {
        filled.retain(|(key, _)| key != "rope_theta");
    }
    let heads = spec.layers.first().and_then(|layer| layer.mixer.grouped());
    let derived = heads.map(|grouped| {
        [
            ("num_key_value_heads", grouped.kv_heads),
            ("head_dim", grouped.head_dim),
        ]
    });
    let is_derived = |key: &str| config.knows(key) && config.get(key).is_none();
    let derived = derived
        .into_iter()
        .flatten()
        .filter(|(key, _)| is_derived(key));
    filled.extend(derived.map(|(key, value)| (key.to_owned(), Value::from(value))));
    filled.sort_by(|left, right| left.0.cmp(&right.0));
    filled
}

/// Reads what families share; `layer` makes layer `index`.
fn decoder(
    config: &ConfigJson,
    layer: impl Fn(usize) -> Result<LayerSpec, ModelError>,
) -> Result<DecoderSpec, ModelError> {
    let layers = config.size("num_hidden_layers")?;
    check_layers(config, layers)?;
    let layers = (0..layers)
        .map(layer)
        .collect::<Result<Vec<_>, ModelError>>()?;
    layers
        .iter()
        .filter_map(|layer| layer.mlp.experts())
        .try_for_each(|experts| check_router(config, &experts.router))?;
    let epsilon = EPSILONS
        .into_iter()
        .find(|key| config.knows(key))
        .unwrap_or("rms_norm_eps");
    Ok(DecoderSpec {
        tied_head: config.flag("tie_word_embeddings", false)?,
        norm_epsilon: config.number(epsilon)?,
        context: config.size("max_position_embeddings")?,
        padding: padding(config)?,
        ..DecoderSpec::new(
            config.size("vocab_size")?,
            config.size("hidden_size")?,
            layers,
        )
    })
}

/// Refuses more layers than any model has, and a list of layers of another length.
fn check_layers(config: &ConfigJson, layers: usize) -> Result<(), ModelError> {
    if layers > MAX_LAYERS {
        return Err(config.fault(format!(
            "`num_hidden_layers` is `{layers}`, expected at most {MAX_LAYERS}"
        )));
    }
    span::check_length(config, layers)
}

/// Reads the padding token. As in torch a negative one counts from the end, and one outside the
/// vocabulary counts as none.
fn padding(config: &ConfigJson) -> Result<Option<u32>, ModelError> {
    let vocabulary = config.size("vocab_size")?;
    let from_start = |id: isize| {
        if id < 0 {
            vocabulary.checked_add_signed(id)
        } else {
            usize::try_from(id).ok()
        }
    };
    let id = config.token("pad_token_id")?;
    Ok(id
        .and_then(from_start)
        .filter(|id| *id < vocabulary)
        .and_then(|id| u32::try_from(id).ok()))
}

/// The most experts: more than any layer has.
const MAX_EXPERTS: usize = 512;

/// Refuses a router that cannot choose so many experts.
fn check_router(config: &ConfigJson, router: &RouterSpec) -> Result<(), ModelError> {
    let RouterSpec {
        experts, chosen, ..
    } = *router;
    if experts > MAX_EXPERTS || chosen > experts {
        return Err(config.fault(format!(
            "a layer has {experts} experts, of which a token is sent \
            to {chosen}, expected at most {MAX_EXPERTS} and no more than there are"
        )));
    }
    let Some(RouterGroups {
        count,
        chosen: groups,
    }) = router.groups
    else {
        return Ok(());
    };
    if !experts.is_multiple_of(count) || groups > count {
        return Err(config.fault(format!(
            "`n_group` is {count}, of which `topk_group`, {groups}, are looked at: {experts} \
            experts do not divide so, expected equal groups"
        )));
    }
    let seen = groups * (experts / count);
    if seen < chosen {
        return Err(config.fault(format!(
            "`num_experts_per_tok` is {chosen}, expected at most {seen}: `topk_group`, {groups}, \
            of `n_group`, {count}, groups of {experts} experts are looked at"
        )));
    }
    Ok(())
}

/// Reads the number of experts of a layer. transformers has two names for it, and takes the first
/// where both are there; `key` is that of the class.
fn experts(
    config: &ConfigJson,
    [first, second]: [&str; 2],
    key: &str,
) -> Result<usize, ModelError> {
    config.size(config.first_named(&[first, second]).unwrap_or(key))
}

/// Reads the coefficient of the load-balancing loss, which transformers adds where
/// `output_router_logits` says so.
fn router_aux(config: &ConfigJson, spec: DecoderSpec) -> Result<DecoderSpec, ModelError> {
    let is_on = config.flag("output_router_logits", false)?;
    let coefficient = config
        .number_or_zero("router_aux_loss_coef")?
        .unwrap_or(0.0);
    Ok(DecoderSpec {
        router_aux_loss_coef: if is_on { coefficient } else { 0.0 },
        ..spec
    })
}

/// Refuses a gate other than `SiLU`.
fn only_silu(config: &ConfigJson) -> Result<(), ModelError> {
    config.only("hidden_act", &["silu", "swish"])
}

/// Reads the activation of a feed-forward without a gate.
fn plain_activation(config: &ConfigJson, key: &str) -> Result<PlainActivation, ModelError> {
    match config.text(key)? {
        Some("gelu") => Ok(PlainActivation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(PlainActivation::GeluTanh),
        Some("relu2") => Ok(PlainActivation::SquaredRelu),
        other => Err(config.fault(format!(
            "`{key}` is `{}`, known are {}",
            other.unwrap_or("missing"),
            list(&[
                "gelu",
                "gelu_fast",
                "gelu_new",
                "gelu_pytorch_tanh",
                "relu2"
            ])
        ))),
    }
}

/// Makes a layer with a `SiLU` gate.
fn plain(config: &ConfigJson, mixer: impl Into<MixerSpec>) -> Result<LayerSpec, ModelError> {
    only_silu(config)?;
    let gate = GatedSpec::new(config.size("intermediate_size")?);
    let bias = config.knows("mlp_bias") && config.flag("mlp_bias", false)?;
    Ok(LayerSpec::new(mixer, GatedSpec { bias, ..gate }))
}

/// Reads the number of query heads, of key heads, which must divide it, and the even width of a
/// head. By default there are as many key heads as query heads, and the width is the stream's
/// divided by the heads.
fn heads(config: &ConfigJson) -> Result<[usize; 3], ModelError> {
    let (width, heads) = (
        config.size("hidden_size")?,
        config.size("num_attention_heads")?,
    );
    let kv_heads = config.size_or("num_key_value_heads", heads)?;
    if heads % kv_heads != 0 {
        return Err(config.fault(format!(
            "`num_attention_heads` is {heads}, not a multiple of `num_key_value_heads`, {kv_heads}"
        )));
    }
    let head_dim = match config.size_or_none("head_dim")? {
        Some(head_dim) => head_dim,
        None if width % heads == 0 => width / heads,
        None => {
            return Err(config.fault(format!(
                "`hidden_size` is {width}, not a multiple of `num_attention_heads`, {heads}"
            )));
        }
    };
    if head_dim % 2 != 0 {
        return Err(config.fault(format!(
            "`head_dim` is {head_dim}, expected an even number: rotation works on pairs"
        )));
    }
    Ok([heads, kv_heads, head_dim])
}
