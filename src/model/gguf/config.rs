//! The metadata of a GGUF file as the config.json of a Hugging Face model, from which the family's
//! own file makes the decoder: the inverse of `keys`. What comes out is compared with the metadata
//! again when the weights are opened.

use serde_json::{Map, Value, json};

use super::super::ModelError;
use super::architecture::Architecture;
use super::rotation;
use crate::files::gguf::{Gguf, GgufTensor};

/// The most layers: more than any model has.
const MAX_LAYERS: usize = 10_000;

/// A family by llama.cpp's name of its architecture.
struct Family {
    /// llama.cpp's name.
    architecture: &'static str,
    /// Whether it has experts.
    is_routed: bool,
    /// Hugging Face's `model_type`.
    model_type: &'static str,
    /// Hugging Face's class.
    class: &'static str,
}

const fn family(
    architecture: &'static str,
    model_type: &'static str,
    class: &'static str,
) -> Family {
    Family {
        architecture,
        is_routed: false,
        model_type,
        class,
    }
}

const fn routed(
    architecture: &'static str,
    model_type: &'static str,
    class: &'static str,
) -> Family {
    Family {
        is_routed: true,
        ..family(architecture, model_type, class)
    }
}

const FAMILIES: [Family; 30] = [
    family("llama", "llama", "LlamaForCausalLM"),
    routed("llama", "mixtral", "MixtralForCausalLM"),
    family("mistral3", "ministral3", "Ministral3ForCausalLM"),
    family("qwen2", "qwen2", "Qwen2ForCausalLM"),
    family("qwen3", "qwen3", "Qwen3ForCausalLM"),
    routed("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"),
    routed("qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM"),
    routed("olmoe", "olmoe", "OlmoeForCausalLM"),
    family("seed_oss", "seed_oss", "SeedOssForCausalLM"),
    family(
        "hunyuan-dense",
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
    ),
    family("exaone4", "exaone4", "Exaone4ForCausalLM"),
    family("glm4", "glm4", "Glm4ForCausalLM"),
    family("cohere2", "cohere2", "Cohere2ForCausalLM"),
    family("starcoder2", "starcoder2", "Starcoder2ForCausalLM"),
    family("phi2", "phi", "PhiForCausalLM"),
    family("nemotron", "nemotron", "NemotronForCausalLM"),
    family("stablelm", "stablelm", "StableLmForCausalLM"),
    family("granite", "granite", "GraniteForCausalLM"),
    routed("granitemoe", "granitemoe", "GraniteMoeForCausalLM"),
    family(
        "granitehybrid",
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
    ),
    family("lfm2", "lfm2", "Lfm2ForCausalLM"),
    family("qwen35", "qwen3_5_text", "Qwen3_5ForCausalLM"),
    routed("qwen35moe", "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM"),
    family("smollm3", "smollm3", "SmolLM3ForCausalLM"),
    family("olmo2", "olmo2", "Olmo2ForCausalLM"),
    family("phi3", "phi3", "Phi3ForCausalLM"),
    family("gemma", "gemma", "GemmaForCausalLM"),
    family("gemma2", "gemma2", "Gemma2ForCausalLM"),
    family("gemma3", "gemma3_text", "Gemma3ForCausalLM"),
    family("gemma4", "gemma4_text", "Gemma4ForCausalLM"),
];

/// The metadata of a model under the keys of its architecture.
pub(super) struct Metadata<'a> {
    pub files: &'a [Gguf],
    pub architecture: &'a str,
}

impl<'a> Metadata<'a> {
    pub fn of(files: &'a [Gguf]) -> Result<Self, ModelError> {
        let first = &files[0];
        let kind = first.text("general.type")?.unwrap_or("model");
        if kind != "model" {
            let message = format!("`general.type` is `{kind}`, expected `model`");
            return Err(first.fault(message).into());
        }
        let architecture = first.text("general.architecture")?;
        let missing = || first.fault("`general.architecture` is missing, expected text");
        Ok(Self {
            files,
            architecture: architecture.ok_or_else(missing)?,
        })
    }

    fn first(&self) -> &'a Gguf {
        &self.files[0]
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub fn fault(&self, message: impl Into<String>) -> ModelError {
        self.first().fault(message).into()
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        Ok(self.first().size(&self.key(key))?)
    }

    pub fn needed(&self, key: &str) -> Result<usize, ModelError> {
        let missing = || {
            self.fault(format!(
                "`{}` is missing, expected a whole number",
                self.key(key)
            ))
        };
        self.size(key)?.ok_or_else(missing)
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        Ok(self.first().number(&self.key(key))?)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        Ok(self.first().flag(&self.key(key))?)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        Ok(self.first().text(&self.key(key))?)
    }

    /// Returns a number of each layer, where all may share one.
    fn by_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, ModelError> {
        let name = self.key(key);
        if !self.first().has_list(&name) {
            return Ok(self.size(key)?.map(|size| vec![size; layers]));
        }
        let sizes = self.first().sizes(&name)?.unwrap_or_default();
        if sizes.len() != layers {
            return Err(self.fault(format!(
                "`{name}` has {} numbers, expected {layers}: one a layer",
                sizes.len()
            )));
        }
        Ok(Some(sizes))
    }

    pub fn tensor(&self, name: &str) -> Option<&'a GgufTensor> {
        self.files.iter().find_map(|file| file.tensor(name))
    }

    /// Returns the numbers of a vector.
    pub fn vector(&self, name: &str) -> Option<Vec<f32>> {
        let file = self.files.iter().find(|file| file.tensor(name).is_some())?;
        super::rows::plain_numbers(file, file.tensor(name)?)
    }

    /// Whether any layer has a tensor of this name.
    fn any_layer_has(&self, layers: usize, name: &str) -> bool {
        (0..layers).any(|layer| self.tensor(&format!("blk.{layer}.{name}")).is_some())
    }
}

/// What every architecture has.
struct Common {
    layers: usize,
    width: usize,
    heads: usize,
    /// Key heads of each layer.
    kv_heads: Vec<usize>,
    head_dim: usize,
    /// Inner width of each layer's feed-forward.
    inner: Vec<usize>,
    context: usize,
    epsilon: f64,
    has_biases: bool,
}

/// Returns whether a file's layers have experts.
pub(super) fn is_routed(metadata: &Metadata) -> Result<bool, ModelError> {
    Ok(metadata.size("expert_count")?.unwrap_or(0) > 0)
}

/// Returns config.json of the model in these files.
///
/// # Errors
/// The architecture is not known, or its keys are missing or of another kind.
pub(super) fn config(files: &[Gguf]) -> Result<Map<String, Value>, ModelError> {
    let metadata = &Metadata::of(files)?;
    let is_routed = is_routed(metadata)?;
    let of_name = |family: &&Family| family.architecture == metadata.architecture;
    let family = FAMILIES
        .iter()
        .filter(of_name)
        .find(|family| family.is_routed == is_routed);
    let Some(family) = family else {
        let known: Vec<String> = FAMILIES
            .iter()
            .map(|family| format!("`{}`", family.architecture))
            .collect();
        let experts = if is_routed { " with experts" } else { "" };
        return Err(metadata.fault(format!(
            "`general.architecture` is `{}`{experts}, known are {}",
            metadata.architecture,
            known.join(", ")
        )));
    };
    let common = common(metadata)?;
    let mut config = shared(metadata, family, &common)?;
    let mut put = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    let mut rope = rotation::section(metadata, common.head_dim)?;
    let full = "full_attention";
    let all_full = json!(vec![full; common.layers]);
    match family.architecture {
        "llama" if is_routed => {
            put("num_local_experts", json!(metadata.needed("expert_count")?));
            put("sliding_window", Value::Null);
        }
        "mistral3" => {
            rotation::grow_queries(metadata, &mut rope)?;
            put("sliding_window", Value::Null);
        }
        "qwen2" | "qwen3" => {
            put("use_sliding_window", json!(false));
            put("sliding_window", Value::Null);
            put("layer_types", all_full);
        }
        "qwen3moe" | "qwen2moe" | "olmoe" => {
            put("num_experts", json!(metadata.needed("expert_count")?));
            put("norm_topk_prob", json!(family.architecture == "qwen3moe"));
            if family.architecture != "olmoe" {
                let inner = metadata.needed("expert_feed_forward_length")?;
                put("moe_intermediate_size", json!(inner));
                put("decoder_sparse_step", json!(1));
                put("mlp_only_layers", json!([]));
                put("use_sliding_window", json!(false));
                put("sliding_window", Value::Null);
            }
            if family.architecture == "qwen2moe" {
                let inner = metadata.needed("expert_shared_feed_forward_length")?;
                put("shared_expert_intermediate_size", json!(inner));
                put("qkv_bias", json!(true));
                put("layer_types", all_full);
            }
        }
        "seed_oss" => put("attention_out_bias", json!(false)),
        "exaone4" => {
            // llama.cpp has windows in the largest model alone, whatever the key says.
            let tokens = metadata
                .size("attention.sliding_window")?
                .filter(|_| common.layers == 64);
            put("sliding_window", json!(tokens));
            put("sliding_window_pattern", json!(4));
            let slides = |index: usize| tokens.is_some() && !(index + 1).is_multiple_of(4);
            put("layer_types", kinds(common.layers, slides));
        }
        "cohere2" => {
            put("logit_scale", json!(metadata.number("logit_scale")?));
            windows(metadata, &common, 4, &mut put)?;
        }
        "starcoder2" => {
            put("use_bias", json!(true));
            put("hidden_act", json!("gelu_pytorch_tanh"));
            put("sliding_window", Value::Null);
        }
        "phi2" => {
            put("hidden_act", json!("gelu_new"));
            put("qk_layernorm", json!(false));
        }
        "nemotron" => put("hidden_act", json!("relu2")),
        "stablelm" => {
            put("use_qkv_bias", json!(common.has_biases));
            put("qk_layernorm", json!(false));
            let is_parallel = !metadata.any_layer_has(common.layers, "ffn_norm.weight");
            put("use_parallel_residual", json!(is_parallel));
        }
        "granite" | "granitemoe" | "granitehybrid" => {
            for (key, of) in [
                ("attention_multiplier", "attention.scale"),
                ("embedding_multiplier", "embedding_scale"),
                ("residual_multiplier", "residual_scale"),
                ("logits_scaling", "logit_scale"),
            ] {
                let usual = if of == "attention.scale" {
                    (common.head_dim as f64).powf(-0.5)
                } else {
                    1.0
                };
                // llama.cpp takes 0 for a factor that is not there.
                let said = metadata.number(of)?.filter(|factor| *factor != 0.0);
                put(key, json!(said.unwrap_or(usual)));
            }
            if family.architecture == "granitemoe" {
                put("num_local_experts", json!(metadata.needed("expert_count")?));
            }
            if family.architecture == "granitehybrid" {
                mamba(metadata, &common, &mut put)?;
            }
        }
        "lfm2" => {
            put("conv_L_cache", json!(metadata.needed("shortconv.l_cache")?));
            put("conv_bias", json!(false));
            put("block_auto_adjust_ff_dim", json!(false));
            let kind = |heads: &usize| if *heads == 0 { "conv" } else { full };
            let kinds: Vec<_> = common.kv_heads.iter().map(kind).collect();
            put("layer_types", json!(kinds));
        }
        "qwen35" | "qwen35moe" => {
            delta_rule(metadata, &common, &mut put)?;
            if is_routed {
                put("num_experts", json!(metadata.needed("expert_count")?));
                let inner = metadata.needed("expert_feed_forward_length")?;
                put("moe_intermediate_size", json!(inner));
                let inner = metadata.needed("expert_shared_feed_forward_length")?;
                put("shared_expert_intermediate_size", json!(inner));
            }
            rotation::sections(metadata, &mut rope)?;
        }
        "smollm3" => {
            let turns = |index: usize| u8::from(!(index + 1).is_multiple_of(4));
            let turns: Vec<u8> = (0..common.layers).map(turns).collect();
            put("no_rope_layers", json!(turns));
            put("no_rope_layer_interval", json!(4));
            put("use_sliding_window", json!(false));
            put("sliding_window", Value::Null);
            put("layer_types", all_full);
        }
        "olmo2" if metadata.size("attention.sliding_window")?.is_some() => {
            put("model_type", json!("olmo3"));
            put("architectures", json!(["Olmo3ForCausalLM"]));
            windows(metadata, &common, 4, &mut put)?;
            let plain = rotation::plain(metadata, "rope.freq_base")?;
            rope = json!({full: rope, "sliding_attention": plain});
        }
        "phi3" => {
            let tokens = metadata.size("attention.sliding_window")?;
            put("sliding_window", json!(tokens.filter(|tokens| *tokens > 0)));
            let trained = metadata.size("rope.scaling.original_context_length")?;
            put(
                "original_max_position_embeddings",
                json!(trained.unwrap_or(common.context)),
            );
        }
        "gemma" | "gemma2" | "gemma3" => {
            put("hidden_act", json!("gelu_pytorch_tanh"));
            put("hidden_activation", json!("gelu_pytorch_tanh"));
            let final_cap = metadata.number("final_logit_softcapping")?;
            put("final_logit_softcapping", json!(final_cap));
            let wide = match family.architecture {
                "gemma2" => 46,
                _ => 62,
            };
            let scalar = if common.layers == wide {
                common.width / common.heads
            } else {
                common.head_dim
            };
            put("query_pre_attn_scalar", json!(scalar));
            if family.architecture == "gemma2" {
                let cap = metadata.number("attn_logit_softcapping")?;
                put("attn_logit_softcapping", json!(cap));
                windows(metadata, &common, 2, &mut put)?;
            }
            if family.architecture == "gemma3" {
                put("attn_logit_softcapping", Value::Null);
                windows(metadata, &common, 6, &mut put)?;
                let plain = rotation::plain(metadata, "rope.freq_base_swa")?;
                rope = json!({full: rope, "sliding_attention": plain});
            }
        }
        "gemma4" => rope = uneven(metadata, &common, &mut put)?,
        _ => {}
    }
    put("rope_parameters", rope);
    Ok(config)
}

fn common(metadata: &Metadata) -> Result<Common, ModelError> {
    let layers = metadata.needed("block_count")?;
    if !(1..=MAX_LAYERS).contains(&layers) {
        return Err(metadata.fault(format!(
            "`block_count` is {layers}, expected 1 to {MAX_LAYERS}"
        )));
    }
    let width = metadata.needed("embedding_length")?;
    let heads = metadata.by_layer("attention.head_count", layers)?;
    let heads = heads.iter().flatten().copied().max().unwrap_or(0);
    if heads == 0 {
        return Err(metadata.fault("`attention.head_count` is 0 or missing, expected some heads"));
    }
    let epsilon = match metadata.number("attention.layer_norm_rms_epsilon")? {
        Some(epsilon) => Some(epsilon),
        None => metadata.number("attention.layer_norm_epsilon")?,
    };
    let kv_heads = metadata.by_layer("attention.head_count_kv", layers)?;
    let inner = metadata.by_layer("feed_forward_length", layers)?;
    let head_dim = metadata.size("attention.key_length")?;
    Ok(Common {
        layers,
        width,
        heads,
        kv_heads: kv_heads.unwrap_or_else(|| vec![heads; layers]),
        head_dim: head_dim.unwrap_or(width / heads),
        inner: inner.unwrap_or_default(),
        context: metadata.needed("context_length")?,
        epsilon: epsilon.ok_or_else(|| {
            metadata.fault("`attention.layer_norm_rms_epsilon` is missing, expected a number")
        })?,
        has_biases: metadata.any_layer_has(layers, "attn_q.bias"),
    })
}

/// Returns the keys that families share.
fn shared(
    metadata: &Metadata,
    family: &Family,
    common: &Common,
) -> Result<Map<String, Value>, ModelError> {
    let embedding = metadata.tensor("token_embd.weight").ok_or_else(|| {
        metadata.fault("tensor `token_embd.weight` is missing, expected the embedding")
    })?;
    let most = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or(0);
    // Experts may be all that a layer has.
    let inner = match most(&common.inner) {
        0 => metadata.size("expert_feed_forward_length")?.unwrap_or(0),
        inner => inner,
    };
    let epsilon = match family.architecture {
        "lfm2" | "nemotron" => "norm_eps",
        "starcoder2" => "norm_epsilon",
        "phi2" | "stablelm" | "cohere2" => "layer_norm_eps",
        _ => "rms_norm_eps",
    };
    let id = |key: &str| {
        metadata
            .first()
            .size(&format!("tokenizer.ggml.{key}_token_id"))
    };
    let mut config = json!({
        "architectures": [family.class],
        "model_type": family.model_type,
        "dtype": super::weights::dtype_of_unpacked(embedding).torch_name(),
        "vocab_size": embedding.rows(),
        "hidden_size": common.width,
        "intermediate_size": inner,
        "num_hidden_layers": common.layers,
        "num_attention_heads": common.heads,
        "num_key_value_heads": most(&common.kv_heads),
        "head_dim": common.head_dim,
        "max_position_embeddings": common.context,
        "hidden_act": "silu",
        epsilon: common.epsilon,
        "tie_word_embeddings": metadata.tensor("output.weight").is_none(),
        "attention_bias": common.has_biases,
        "mlp_bias": metadata.any_layer_has(common.layers, "ffn_up.bias"),
        "bos_token_id": id("bos")?,
        "eos_token_id": id("eos")?,
        "pad_token_id": id("padding")?,
    });
    if family.is_routed {
        config["num_experts_per_tok"] = json!(metadata.needed("expert_used_count")?);
        config["output_router_logits"] = json!(false);
    }
    match config {
        Value::Object(config) => Ok(config),
        _ => unreachable!("an object was made"),
    }
}

fn kinds(layers: usize, slides: impl Fn(usize) -> bool) -> Value {
    let kind = |index: usize| {
        if slides(index) {
            "sliding_attention"
        } else {
            "full_attention"
        }
    };
    json!((0..layers).map(kind).collect::<Vec<_>>())
}

/// Puts the window and the layers that have it: all but `period`, 2 `period`, .. unless a key says
/// otherwise.
fn windows(
    metadata: &Metadata,
    common: &Common,
    period: usize,
    put: &mut impl FnMut(&str, Value),
) -> Result<Vec<bool>, ModelError> {
    let slides = pattern(metadata, common, period)?;
    let tokens = metadata.size("attention.sliding_window")?;
    put("sliding_window", json!(tokens));
    let slides: Vec<bool> = slides
        .iter()
        .map(|slides| *slides && tokens.is_some())
        .collect();
    put("layer_types", kinds(common.layers, |index| slides[index]));
    Ok(slides)
}

fn pattern(metadata: &Metadata, common: &Common, period: usize) -> Result<Vec<bool>, ModelError> {
    let key = metadata.key("attention.sliding_window_pattern");
    let by_period = |period: usize| {
        let slides = |layer: usize| period == 0 || !layer.is_multiple_of(period);
        (1..=common.layers).map(slides).collect()
    };
    if !metadata.first().has(&key) {
        return Ok(by_period(period));
    }
    if !metadata.first().has_list(&key) {
        return Ok(by_period(metadata.first().size(&key)?.unwrap_or(period)));
    }
    let slides = metadata.first().flags(&key)?.unwrap_or_default();
    if slides.len() < common.layers {
        return Err(metadata.fault(format!(
            "`{key}` has {} values, expected {}: one a layer",
            slides.len(),
            common.layers
        )));
    }
    Ok(slides)
}

/// Puts the keys of Granite's Mamba 2.
fn mamba(
    metadata: &Metadata,
    common: &Common,
    put: &mut impl FnMut(&str, Value),
) -> Result<(), ModelError> {
    let heads = metadata.needed("ssm.time_step_rank")?.max(1);
    let inner = metadata.needed("ssm.inner_size")?;
    put("num_local_experts", json!(0));
    put("num_experts_per_tok", json!(0));
    put("shared_intermediate_size", json!(common.inner.iter().max()));
    put("mamba_expand", json!(inner / common.width.max(1)));
    put("mamba_n_heads", json!(heads));
    put("mamba_d_head", json!(inner / heads));
    put("mamba_n_groups", json!(metadata.needed("ssm.group_count")?));
    put("mamba_d_state", json!(metadata.needed("ssm.state_size")?));
    put("mamba_d_conv", json!(metadata.needed("ssm.conv_kernel")?));
    let has_bias = metadata.any_layer_has(common.layers, "ssm_conv1d.bias");
    put("mamba_conv_bias", json!(has_bias));
    put("mamba_proj_bias", json!(false));
    let kind = |heads: &usize| {
        if *heads == 0 {
            "linear_attention"
        } else {
            "full_attention"
        }
    };
    let kinds: Vec<_> = common.kv_heads.iter().map(kind).collect();
    put("layer_types", json!(kinds));
    let turns = metadata.flag("rope.scaling.finetuned")?.unwrap_or(true);
    put(
        "position_embedding_type",
        json!(if turns { "rope" } else { "nope" }),
    );
    Ok(())
}

/// Puts the keys of Qwen's gated delta rule.
fn delta_rule(
    metadata: &Metadata,
    common: &Common,
    put: &mut impl FnMut(&str, Value),
) -> Result<(), ModelError> {
    let heads = metadata.needed("ssm.time_step_rank")?.max(1);
    put("linear_num_value_heads", json!(heads));
    put(
        "linear_value_head_dim",
        json!(metadata.needed("ssm.inner_size")? / heads),
    );
    put(
        "linear_num_key_heads",
        json!(metadata.needed("ssm.group_count")?),
    );
    put(
        "linear_key_head_dim",
        json!(metadata.needed("ssm.state_size")?),
    );
    put(
        "linear_conv_kernel_dim",
        json!(metadata.needed("ssm.conv_kernel")?),
    );
    let period = metadata
        .size("full_attention_interval")?
        .unwrap_or(4)
        .max(1);
    let kind = |layer: usize| {
        if layer.is_multiple_of(period) {
            "full_attention"
        } else {
            "linear_attention"
        }
    };
    let kinds: Vec<_> = (1..=common.layers).map(kind).collect();
    put("layer_types", json!(kinds));
    Ok(())
}

/// Puts the keys of Gemma 4, and returns its rotations.
fn uneven(
    metadata: &Metadata,
    common: &Common,
    put: &mut impl FnMut(&str, Value),
) -> Result<Value, ModelError> {
    let slides = windows(metadata, common, usize::MAX, put)?;
    let narrow = metadata.size("attention.key_length_swa")?;
    let narrow = narrow.unwrap_or(common.head_dim);
    let usual_heads = slides
        .iter()
        .zip(&common.kv_heads)
        .find(|(slides, _)| **slides);
    let usual_heads = usual_heads.map_or(common.kv_heads[0], |(_, heads)| *heads);
    let mut of_layers = Map::new();
    for (index, (slides, heads)) in slides.iter().zip(&common.kv_heads).enumerate() {
        if !slides {
            let own = json!({"head_dim": common.head_dim, "num_key_value_heads": heads});
            of_layers.insert(index.to_string(), own);
        }
    }
    put("head_dim", json!(narrow));
    put("num_key_value_heads", json!(usual_heads));
    put("per_layer_config", Value::Object(of_layers));
    let shared = metadata.size("attention.shared_kv_layers")?.unwrap_or(0);
    put("num_kv_shared_layers", json!(shared));
    let inner = common.inner.iter();
    let (least, most) = (inner.clone().min(), inner.max());
    put("intermediate_size", json!(least));
    put("use_double_wide_mlp", json!(least != most));
    let own = common.layers.saturating_sub(shared);
    let lacks_values = (0..own).any(|layer| {
        !slides[layer]
            && metadata
                .tensor(&format!("blk.{layer}.attn_v.weight"))
                .is_none()
    });
    put("attention_k_eq_v", json!(lacks_values));
    put("enable_moe_block", json!(false));
    for key in ["num_experts", "top_k_experts", "moe_intermediate_size"] {
        put(key, Value::Null);
    }
    let width = metadata.size("embedding_length_per_layer_input")?;
    put("hidden_size_per_layer_input", json!(width.unwrap_or(0)));
    let rows = metadata.tensor("token_embd.weight").map(GgufTensor::rows);
    put("vocab_size_per_layer_input", json!(rows));
    put("hidden_activation", json!("gelu_pytorch_tanh"));
    put("hidden_act", json!("gelu_pytorch_tanh"));
    let final_cap = metadata.number("final_logit_softcapping")?;
    put("final_logit_softcapping", json!(final_cap));
    put("use_bidirectional_attention", Value::Null);
    Ok(json!({
        "full_attention": rotation::proportional(metadata, common.head_dim)?,
        "sliding_attention": rotation::plain(metadata, "rope.freq_base_swa")?,
    }))
}

/// Returns the architecture that the metadata of a model's files name; the first has the metadata.
///
/// # Errors
/// There is none of this name.
pub(crate) fn architecture_of(files: &[Gguf]) -> Result<&'static Architecture, ModelError> {
    let metadata = Metadata::of(files)?;
    let known = Architecture::named(metadata.architecture, is_routed(&metadata)?);
    known.ok_or_else(|| {
        metadata.fault(format!(
            "`general.architecture` is `{}`, known are {}",
            metadata.architecture,
            Architecture::names().collect::<Vec<_>>().join(", ")
        ))
    })
}
