//! Qwen 3.5: three of four layers have the gated delta rule, the others attention with gates of its
//! result and a rotation of a part of each head; norms multiply by 1 + w.

use super::span::named_kind;
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, MixerSpec, ModelError, QueryKeyNorm, decoder,
    heads, plain, rope,
};
use crate::model::layout::Names;
use crate::model::spec::{OutputGate, RecurrentSpec};
use crate::ops::{RecurrenceForm, Update};

/// Period of the layers with attention where the config does not list them.
const PERIOD: usize = 4;
/// The rotated share of a head where the config does not say.
const TURNED: f64 = 0.25;
/// Names in files of the model with vision, of which transformers takes the decoder alone.
const NAMES: Names = Names {
    elsewhere: &[("model.language_model.", "model.")],
    passes_by: &["mtp.", "model.visual."],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    stream(config, |mixer| plain(config, mixer))
}

/// Reads the decoder; `layer` adds a feed-forward to a mixer.
pub(super) fn stream(
    config: &ConfigJson,
    layer: impl Fn(MixerSpec) -> Result<LayerSpec, ModelError>,
) -> Result<DecoderSpec, ModelError> {
    let (attention, states) = (attention(config)?, states(config)?);
    let period = config.size_or("full_attention_interval", PERIOD)?;
    let spec = decoder(config, |index| {
        let known = ["full_attention", "linear_attention"];
        let attends = match named_kind(config, index, &known)? {
            Some(kind) => kind == known[0],
            None => (index + 1).is_multiple_of(period),
        };
        layer(if attends {
            attention.clone().into()
        } else {
            states.clone().into()
        })
    })?;
    Ok(DecoderSpec {
        norm_offset: 1.0,
        names: NAMES,
        ..spec
    })
}

fn attention(config: &ConfigJson) -> Result<GroupedSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::of_sections_in_part(config, shape[2], TURNED)?;
    let bias = config.flag("attention_bias", false)?;
    Ok(GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: QueryKeyNorm::Heads,
        gate: OutputGate::Features,
        ..GroupedSpec::new(shape, rope)
    })
}

fn states(config: &ConfigJson) -> Result<RecurrentSpec, ModelError> {
    let form = RecurrenceForm {
        update: Update::Delta,
        key_heads: config.size("linear_num_key_heads")?,
        value_heads: config.size("linear_num_value_heads")?,
        key_dim: config.size("linear_key_head_dim")?,
        value_dim: config.size("linear_value_head_dim")?,
    };
    if !form.value_heads.is_multiple_of(form.key_heads) {
        return Err(config.fault(format!(
            "`linear_num_value_heads` is {}, not a multiple of `linear_num_key_heads`, {}",
            form.value_heads, form.key_heads
        )));
    }
    Ok(RecurrentSpec {
        module: "linear_attn",
        form,
        taps: config.size("linear_conv_kernel_dim")?,
        conv_bias: false,
        bias: false,
    })
}
