//! ERNIE 4.5 (dense): Llama with a rotation of neighbors, and biases everywhere if the config says
//! so.

use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, ModelError, decoder, heads,
    only_silu, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let bias = config.flag("use_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        ..GroupedSpec::new(shape, rope::of_neighbors(rope::spec(config, shape[2])?))
    };
    only_silu(config)?;
    let mlp = GatedSpec {
        bias,
        ..GatedSpec::new(config.size("intermediate_size")?)
    };
    decoder(config, |_| Ok(LayerSpec::new(mixer.clone(), mlp.clone())))
}
