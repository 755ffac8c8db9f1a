//! Gemma 4 for text: wider heads in layers without a window, which may use keys as values; keys and
//! values that upper layers take from lower ones; inputs of the layers' own; and experts beside the
//! feed-forward.

use serde_json::Value;

use super::gemma::gate;
use super::span::span;
use super::{
    ConfigJson, DecoderSpec, ExpertForm, ExpertsSpec, GatedAndExpertsSpec, GatedSpec, GroupedSpec,
    KeyValues, LayerSpec, MlpSpec, ModelError, NormPlacement, PerLayerInputSpec, QueryKeyNorm,
    RouterScore, RouterSpec, StackNames, decoder, heads, kind_of_layer, rope,
};

/// Period of the layers without a window where the config does not list them.
const PATTERN: usize = 6;
/// The share of the pairs that rotate in layers without a window where the config does not say.
const TURNED: f64 = 0.25;
/// Width of heads without a window where the config does not say.
const WIDE: usize = 512;
/// Keys that layers may have values of their own for.
const OF_LAYER: [&str; 2] = ["head_dim", "num_key_value_heads"];
const FORM: ExpertForm = ExpertForm::Rows(StackNames {
    module: "experts",
    tensors: ["experts.gate_up_proj", "experts.down_proj"],
    router: "router.proj",
});

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    config.only("use_bidirectional_attention", &["vision"])?;
    check_keys_of_others(config)?;
    let kinds = kinds(config)?;
    let sources = sources(config, &kinds)?;
    let shapes = shapes(config, &kinds)?;
    let [full, sliding] =
        rope::of_wide_kinds(config, shapes.map(|[_, _, head_dim]| head_dim), TURNED)?;
    let (bias, window) = (
        config.flag("attention_bias", false)?,
        config.size_or_none("sliding_window")?,
    );
    let keys_as_values = config.flag("attention_k_eq_v", false)?;
    let input = per_layer_input(config)?;
    let layer = |index: usize| {
        let slides = kinds[index];
        let (shape, rope) = if slides {
            (shapes[1], &sliding)
        } else {
            (shapes[0], &full)
        };
        let own = if keys_as_values && !slides {
            KeyValues::KeysAsValues
        } else {
            KeyValues::Projected
        };
        let mixer = GroupedSpec {
            qkv_bias: bias,
            output_bias: bias,
            qk_norm: QueryKeyNorm::Heads,
            key_values: sources[index].map_or(own, KeyValues::OfLayer),
            value_norm: true,
            span: span(config, index, slides, window)?,
            score_scale: 1.0,
            ..GroupedSpec::new(shape, rope.clone())
        };
        Ok(LayerSpec {
            norms: NormPlacement::PreAndPost,
            per_layer_input: input,
            has_scalar: true,
            ..LayerSpec::new(mixer, mlp(config, sources[index].is_some())?)
        })
    };
    let decoder = decoder(config, layer)?;
    Ok(DecoderSpec {
        embed_scale: (decoder.width as f64).sqrt(),
        final_softcap: config.number_or_none("final_logit_softcapping")?,
        ..decoder
    })
}

/// Refuses keys of other families that transformers does not take here.
fn check_keys_of_others(config: &ConfigJson) -> Result<(), ModelError> {
    let is_list_of_layers = |list: &Value| {
        let layers = config.size("num_hidden_layers").ok();
        list.as_array().map(Vec::len) == layers
    };
    for (key, is_wrong) in [
        ("rope_scaling", config.names("rope_scaling")),
        (
            "attention_chunk_size",
            config.get("attention_chunk_size").is_some(),
        ),
        (
            "mlp_layer_types",
            config
                .get("mlp_layer_types")
                .is_some_and(|list| !is_list_of_layers(list)),
        ),
    ] {
        if is_wrong {
            return Err(config.fault(format!("`{key}` is not known for this `model_type`")));
        }
    }
    config.count_or("vocab_size_per_layer_input", 0).map(drop)
}

/// Returns whether each layer has a window. The last one never has.
fn kinds(config: &ConfigJson) -> Result<Vec<bool>, ModelError> {
    let layers = config.size("num_hidden_layers")?;
    super::check_layers(config, layers)?;
    let slides = |index: usize| {
        let listed = kind_of_layer(config, index)?;
        let slides = listed.unwrap_or(!(index + 1).is_multiple_of(PATTERN));
        Ok(slides && index + 1 < layers)
    };
    (0..layers).map(slides).collect()
}

/// Returns for each layer the one whose keys and values it uses: of the upper layers the highest of
/// its kind below them.
fn sources(config: &ConfigJson, kinds: &[bool]) -> Result<Vec<Option<usize>>, ModelError> {
    let shared = config.count_or("num_kv_shared_layers", 0)?;
    let Some(first) = kinds.len().checked_sub(shared).filter(|first| *first > 0) else {
        return Err(config.fault(format!(
            "`num_kv_shared_layers` is {shared}, expected fewer than `num_hidden_layers`, {}",
            kinds.len()
        )));
    };
    let source = |(index, slides): (usize, &bool)| {
        if index < first {
            return Ok(None);
        }
        let source = kinds[..first].iter().rposition(|kind| kind == slides);
        source.map(Some).ok_or_else(|| {
            config.fault(format!(
                "layer {index} uses keys and values of a lower layer of its kind in \
                `layer_types`, and none of the lowest {first} is of it"
            ))
        })
    };
    kinds.iter().enumerate().map(source).collect()
}

/// Returns query heads, key heads and the width of a head in layers without and with a window.
fn shapes(config: &ConfigJson, kinds: &[bool]) -> Result<[[usize; 3]; 2], ModelError> {
    let mut shapes = [None, None];
    for (index, slides) in kinds.iter().enumerate() {
        let (shape, of_kind) = (
            shape(config, index, *slides)?,
            &mut shapes[usize::from(*slides)],
        );
        let known = *of_kind.get_or_insert(shape);
        if known != shape {
            return Err(config.fault(format!(
                "layer {index} has {shape:?} query heads, key heads and features of a head, \
                expected those of other layers of its kind, {known:?}"
            )));
        }
    }
    let usual = heads(config)?;
    Ok(shapes.map(|shape| shape.unwrap_or(usual)))
}

/// Returns the shape of a layer's attention: by `per_layer_config`, or by keys for all layers
/// without a window where that is not there.
fn shape(config: &ConfigJson, index: usize, slides: bool) -> Result<[usize; 3], ModelError> {
    let [heads, kv_heads, head_dim] = heads(config)?;
    let [kv_heads, head_dim] = match config.section("per_layer_config")? {
        Some(layers) => {
            let of_layer = layers.section(&index.to_string())?;
            let of = |key: &str, usual| match &of_layer {
                Some(own) => own.size_or(key, usual),
                None => Ok(usual),
            };
            if let Some(key) = of_layer
                .iter()
                .flat_map(ConfigJson::keys)
                .find(|key| !OF_LAYER.contains(&key.as_str()))
            {
                return Err(config.fault(format!(
                    "`per_layer_config` has `{key}` for layer {index}, known are {}",
                    super::list(&OF_LAYER)
                )));
            }
            [
                of("num_key_value_heads", kv_heads)?,
                of("head_dim", head_dim)?,
            ]
        }
        None if slides => [kv_heads, head_dim],
        None => {
            config.not_null("global_head_dim", "a whole number from 1")?;
            let shares = config.flag("attention_k_eq_v", false)?;
            let wide_heads = config.size_or_none("num_global_key_value_heads")?;
            [
                wide_heads.filter(|_| shares).unwrap_or(kv_heads),
                config.size_or("global_head_dim", WIDE)?,
            ]
        }
    };
    if heads % kv_heads != 0 || head_dim % 2 != 0 {
        return Err(config.fault(format!(
            "layer {index} has {heads} query heads on {kv_heads} key heads of {head_dim}, expected \
            a multiple of the key heads and an even width"
        )));
    }
    Ok([heads, kv_heads, head_dim])
}

/// Reads the layers' own inputs.
fn per_layer_input(config: &ConfigJson) -> Result<Option<PerLayerInputSpec>, ModelError> {
    let key = "hidden_size_per_layer_input";
    let width = if config.knows(key) {
        config.count_or(key, 0)?
    } else {
        0
    };
    if width == 0 {
        return Ok(None);
    }
    let [of_inputs, of_tokens] = [
        config.size("vocab_size_per_layer_input")?,
        config.size("vocab_size")?,
    ];
    if of_inputs != of_tokens {
        return Err(config.fault(format!(
            "`vocab_size_per_layer_input` is {of_inputs}, expected `vocab_size`, {of_tokens}"
        )));
    }
    let activation = gate(config)?.activation;
    Ok(Some(PerLayerInputSpec { width, activation }))
}

/// Reads the feed-forward, which may be twice as wide where a layer has no keys of its own.
fn mlp(config: &ConfigJson, is_shared: bool) -> Result<MlpSpec, ModelError> {
    let gated = gate(config)?;
    let is_wide = is_shared && config.flag("use_double_wide_mlp", false)?;
    let gated = GatedSpec {
        inner: gated.inner * if is_wide { 2 } else { 1 },
        ..gated
    };
    if !(config.knows("enable_moe_block") && config.flag("enable_moe_block", false)?) {
        return Ok(gated.into());
    }
    let router = RouterSpec {
        experts: config.size("num_experts")?,
        chosen: config.size("top_k_experts")?,
        score: RouterScore::ScaledSoftmax,
        groups: None,
        normalizes: true,
        scale: 1.0,
        bias: false,
    };
    let expert = GatedSpec {
        inner: config.size("moe_intermediate_size")?,
        ..gated.clone()
    };
    let experts = ExpertsSpec {
        router,
        expert,
        form: FORM,
        shared: None,
    };
    Ok(MlpSpec::GatedAndExperts(Box::new(GatedAndExpertsSpec {
        gated,
        experts,
    })))
}
