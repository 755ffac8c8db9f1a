//! `OLMo` 3: `OLMo` 2 with a window in three of four layers, which are not stretched.

use super::span::span;
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormPlacement, QueryKeyNorm,
    decoder, heads, kind_of_layer, plain, rope,
};

/// Period of the layers without a window where the config does not list them.
const PATTERN: usize = 4;
const BASES: rope::Bases = rope::Bases {
    full: 5e5,
    sliding: 5e5,
    sliding_key: None,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let [full, sliding] = rope::of_kinds(config, shape[2], &BASES)?;
    let bias = config.flag("attention_bias", false)?;
    let window = config.size_or_none("sliding_window")?;
    decoder(config, |index| {
        let slides = kind_of_layer(config, index)?.unwrap_or(!(index + 1).is_multiple_of(PATTERN));
        let rope = if slides { &sliding } else { &full };
        let mixer = GroupedSpec {
            qkv_bias: bias,
            output_bias: bias,
            qk_norm: QueryKeyNorm::Whole,
            span: span(config, index, slides, window)?,
            ..GroupedSpec::new(shape, rope.clone())
        };
        Ok(LayerSpec {
            norms: NormPlacement::Post,
            ..plain(config, mixer)?
        })
    })
}
