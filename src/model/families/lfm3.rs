//! LFM 3: LFM 2's convolutions, norms before and after, windows in some layers, whose rotation is
//! another, and a gate for each head of attention.

use super::lfm2::{NAMES as OLDER, convolution};
use super::span::{named_kind, span};
use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, MixerSpec, ModelError, Names,
    NormPlacement, QueryKeyNorm, decoder, heads, rope,
};
use crate::model::spec::OutputGate;

const KINDS: [&str; 3] = ["conv", "sliding_attention", "full_attention"];
/// Its files call the gates of attention otherwise than transformers does.
const NAMES: Names = Names {
    attention_output: "o_proj",
    query_key_norms: ["q_norm", "k_norm"],
    modules_elsewhere: &[(".self_attn.gate_proj.", ".self_attn.g_proj.")],
    ..OLDER
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let [full, sliding] = rope::of_wide_kinds(config, [shape[2]; 2], 0.5)?;
    let bias = config.flag("attention_bias", false)?;
    let gate = if config.flag("use_attention_gate", true)? {
        OutputGate::Heads("g_proj")
    } else {
        OutputGate::None
    };
    let norms = if config.flag("use_sandwich_norm", true)? {
        NormPlacement::PreAndPost
    } else {
        NormPlacement::Pre
    };
    let window = config.size_or_none("sliding_window")?;
    let convolution = convolution(config)?;
    let mlp = GatedSpec::new(config.size("intermediate_size")?);
    let spec = decoder(config, |index| {
        let kind = match named_kind(config, index, &KINDS)? {
            Some(kind) => kind,
            None if index % 4 == 2 => KINDS[2],
            None if index % 4 == 0 && index > 0 => KINDS[1],
            None => KINDS[0],
        };
        let slides = kind == KINDS[1];
        let rope = if slides { &sliding } else { &full };
        let mixer: MixerSpec = if kind == KINDS[0] {
            convolution.clone().into()
        } else {
            GroupedSpec {
                qkv_bias: bias,
                output_bias: bias,
                qk_norm: QueryKeyNorm::Heads,
                span: span(config, index, slides, window)?,
                gate,
                ..GroupedSpec::new(shape, rope.clone())
            }
            .into()
        };
        Ok(LayerSpec {
            norms,
            ..LayerSpec::new(mixer, mlp.clone())
        })
    })?;
    Ok(DecoderSpec {
        names: NAMES,
        ..spec
    })
}
