//! EXAONE 4: norms of each layer's outputs and of every query and key head; where some layers have
//! a window, only those rotate.

use super::span::span;
use super::{
    ConfigJson, DecoderSpec, GroupedSpec, LayerSpec, ModelError, NormPlacement, QueryKeyNorm,
    decoder, heads, kind_of_layer, plain, rope,
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = rope::spec(config, shape[2])?;
    let window = config.size_or_none("sliding_window")?;
    decoder(config, |index| {
        let slides = match kind_of_layer(config, index)? {
            Some(slides) => slides,
            None if window.is_some() => {
                !(index + 1).is_multiple_of(config.size("sliding_window_pattern")?)
            }
            None => {
                return Err(config.fault(
                    "`layer_types` is missing, expected a list where there is no `sliding_window`",
                ));
            }
        };
        let mixer = GroupedSpec {
            qk_norm: QueryKeyNorm::Heads,
            span: span(config, index, slides, window)?,
            ..GroupedSpec::new(shape, (window.is_none() || slides).then(|| rope.clone()))
        };
        Ok(LayerSpec {
            norms: NormPlacement::Post,
            ..plain(config, mixer)?
        })
    })
}
