//! Phi-3, Phi-3.5 and Phi-4: q, k and v are one module, and so are gate and up.

use super::{Config, DecoderSpec, Error, GatedSpec, GroupedSpec, LayerSpec, Modules, decoder, heads, padding, rope};
use crate::nn::attention::Span;

const CONTEXT: usize = 4096;

pub(super) fn spec(config: &Config) -> Result<DecoderSpec, Error> {
    let shape = heads(config, None, None)?;
    let rope = rope::spec(config, shape[2], CONTEXT)?;
    for key in ["embd_pdrop", "resid_pdrop"] {
        if let Some(share) = config.get(key).and_then(serde_json::Value::as_f64).filter(|share| *share > 0.0) {
            return Err(config.fault(format!("`{key}` is {share}, known is 0")));
        }
    }
    let span = config.size_or_none("sliding_window")?.map_or(Span::Full, |window| Span::Sliding { window });
    let mixer = GroupedSpec { qkv: Modules::Fused, span, ..GroupedSpec::new(shape, rope) };
    let spec = decoder(config, CONTEXT, |_| {
        config.only("hidden_act", &["silu"])?;
        let gate = GatedSpec { gate_up: Modules::Fused, ..GatedSpec::new(config.size("intermediate_size")?) };
        Ok(LayerSpec::new(mixer.clone(), gate))
    })?;
    Ok(DecoderSpec { padding: padding(config, Some(32_000))?, ..spec })
}
