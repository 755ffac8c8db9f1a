//! Qwen 2 and 2.5: biases on q, k and v; and the text decoders of Qwen 2 VL and 2.5 VL, whose
//! rotation depends on one position for text.

use super::{
    ConfigJson, DecoderSpec, GroupedSpec, ModelError, decoder, heads, plain, rope, span_by_layer,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    rotated(config, GroupedSpec::new(shape, rope))
}

pub(super) fn in_wrapper(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::by_sections(config, shape[2])?;
    rotated(config, GroupedSpec::new(shape, rope))
}

fn rotated(config: &ConfigJson, mixer: GroupedSpec) -> Result<DecoderSpec, ModelError> {
    let mixer = GroupedSpec {
        qkv_bias: true,
        ..mixer
    };
    decoder(config, |index| {
        plain(
            config,
            GroupedSpec {
                span: span_by_layer(config, index)?,
                ..mixer.clone()
            },
        )
    })
}
