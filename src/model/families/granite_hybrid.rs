//! Granite 4: Granite with gate and up in one module of its shared feed-forward, attention that
//! need not rotate, and in its H models Mamba 2 in most layers.

use super::span::named_kind;
use serde_json::Value;

use super::granite::{attention, scaled};
use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, MixerSpec, ModelError, Modules,
    Names, decoder, only_silu,
};
use crate::model::spec::RecurrentSpec;
use crate::ops::{RecurrenceForm, Update};

const NAMES: Names = Names {
    fused_gate_up: "shared_mlp.input_linear",
    mlp_output: "shared_mlp.output_linear",
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    config.not_null("num_local_experts", "0")?;
    let experts = config.count_or("num_local_experts", 0)?;
    if experts > 0 {
        return Err(config.fault(format!(
            "`num_local_experts` is {experts}, known is 0: a feed-forward without experts"
        )));
    }
    only_silu(config)?;
    let mixer = attention(config)?;
    let rotates = match config.text("position_embedding_type")? {
        Some("rope") => true,
        None | Some("nope") => false,
        Some(other) => {
            return Err(config.fault(format!(
                "`position_embedding_type` is `{other}`, known are `rope`, `nope`, null"
            )));
        }
    };
    let mixer = GroupedSpec {
        rope: mixer.rope.clone().filter(|_| rotates),
        ..mixer
    };
    let mlp = GatedSpec {
        gate_up: Modules::Fused,
        ..GatedSpec::new(config.size("shared_intermediate_size")?)
    };
    // Both words are one key.
    let kinds = config
        .get("layer_types")
        .or(config.get("layers_block_type"));
    let kinds = kinds.cloned().unwrap_or(Value::Null);
    let listed = config.clone().with("layer_types", kinds);
    let known = ["attention", "full_attention", "mamba", "linear_attention"];
    let kind_of = |index: usize| -> Result<bool, ModelError> {
        let kind = named_kind(&listed, index, &known)?;
        Ok(kind.is_some_and(|kind| known[..2].contains(&kind)))
    };
    let spec = decoder(config, |index| {
        let mixer: MixerSpec = if kind_of(index)? {
            mixer.clone().into()
        } else {
            states(config)?.into()
        };
        Ok(LayerSpec::new(mixer, mlp.clone()))
    })?;
    scaled(
        config,
        DecoderSpec {
            names: NAMES,
            ..spec
        },
    )
}

/// Reads the Mamba 2 of a layer.
fn states(config: &ConfigJson) -> Result<RecurrentSpec, ModelError> {
    let width = config.size("mamba_expand")? * config.size("hidden_size")?;
    let (heads, groups) = (
        config.size("mamba_n_heads")?,
        config.size("mamba_n_groups")?,
    );
    let head_dim = match config.get("mamba_d_head").and_then(Value::as_str) {
        Some("auto") => width / heads,
        _ => config.size("mamba_d_head")?,
    };
    if heads * head_dim != width || heads % groups != 0 {
        return Err(config.fault(format!(
            "`mamba_n_heads` is {heads} of `mamba_d_head`, {head_dim}, in `mamba_n_groups`, \
            {groups}, expected {width} features (`mamba_expand` times `hidden_size`) in equal \
            groups"
        )));
    }
    let [least, most] = limits(config)?;
    Ok(RecurrentSpec {
        module: "mamba",
        form: RecurrenceForm {
            update: Update::Sum { least, most },
            key_heads: groups,
            value_heads: heads,
            key_dim: config.size("mamba_d_state")?,
            value_dim: head_dim,
        },
        taps: config.size("mamba_d_conv")?,
        conv_bias: config.flag("mamba_conv_bias", true)?,
        bias: config.flag("mamba_proj_bias", false)?,
    })
}

/// Reads the limits of a step, which are none by default. JSON has no infinity: transformers writes
/// `{"__float__": "Infinity"}`, and Python the bare word.
fn limits(config: &ConfigJson) -> Result<[f32; 2], ModelError> {
    let Some(said) = config.get("time_step_limit") else {
        return Ok([0.0, f32::INFINITY]);
    };
    let read = |limit: &Value| match limit.get("__float__").and_then(Value::as_str) {
        Some("Infinity") => Some(f32::INFINITY),
        Some(_) => None,
        None => limit.as_f64().map(|limit| limit as f32),
    };
    let limits: Option<Vec<f32>> = said
        .as_array()
        .and_then(|limits| limits.iter().map(read).collect());
    match limits.as_deref() {
        Some([least, most]) if *least >= 0.0 && least <= most => Ok([*least, *most]),
        _ => Err(config.fault(format!(
            "`time_step_limit` is `{said}`, expected two numbers from 0 on, the lower first"
        ))),
    }
}
