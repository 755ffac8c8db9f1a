//! Phi-3, Phi-3.5 and Phi-4: one module for q, k and v, and one for gate and up.

use super::{
    ConfigJson, DecoderSpec, GatedSpec, GroupedSpec, LayerSpec, ModelError, Modules, Span, decoder,
    heads, only_silu, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::of_phi3(config, shape[2])?;
    let span = config
        .size_or_none("sliding_window")?
        .map_or(Span::Full, |window| Span::Sliding { window });
    let mixer = GroupedSpec {
        qkv: Modules::Fused,
        span,
        ..GroupedSpec::new(shape, rope)
    };
    only_silu(config)?;
    let gate = GatedSpec {
        gate_up: Modules::Fused,
        ..GatedSpec::new(config.size("intermediate_size")?)
    };
    decoder(config, |_| Ok(LayerSpec::new(mixer.clone(), gate.clone())))
}
