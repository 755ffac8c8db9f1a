//! Granite 4 without Mamba layers (Micro): Granite with gate and up in one module of its shared
//! feed-forward, and attention that need not rotate.

use super::granite::{attention, scaled};
use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, ModelError, Modules, Names,
    decoder, only_silu,
};

const NAMES: Names = Names {
    fused_gate_up: "shared_mlp.input_linear",
    mlp_output: "shared_mlp.output_linear",
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
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
    let spec = decoder(config, |index| {
        attends(config, index)?;
        Ok(LayerSpec::new(mixer.clone(), mlp.clone()))
    })?;
    scaled(
        config,
        DecoderSpec {
            names: NAMES,
            ..spec
        },
    )
}

/// Refuses a layer that is no attention. Without a list no layer is.
fn attends(config: &ConfigJson, index: usize) -> Result<(), ModelError> {
    let listed = config
        .get("layer_types")
        .or(config.get("layers_block_type"))
        .and_then(serde_json::Value::as_array);
    let kind = listed.map_or(Some("linear_attention"), |kinds| {
        kinds.get(index).and_then(serde_json::Value::as_str)
    });
    match kind {
        Some("attention" | "full_attention") => Ok(()),
        other => Err(config.fault(format!(
            "`layer_types` of layer {index} is `{}`, known are `attention`, `full_attention`",
            other.unwrap_or("missing")
        ))),
    }
}
