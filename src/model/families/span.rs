//! Which layers have a window: by `layer_types`, or by the family's rule where they are not listed.

use serde_json::Value;

use super::{ConfigJson, ModelError, Span, list};

/// Whether layer `index` has a window by `layer_types`; `None` where they are not listed.
/// `attention` is the older word.
pub(super) fn kind_of_layer(config: &ConfigJson, index: usize) -> Result<Option<bool>, ModelError> {
    let Some(kinds) = listed(config)? else {
        return Ok(None);
    };
    match kinds.get(index).and_then(Value::as_str) {
        Some("sliding_attention") => Ok(Some(true)),
        Some("full_attention" | "attention") => Ok(Some(false)),
        other => {
            let found = other.unwrap_or("missing");
            let known = "known are `full_attention`, `sliding_attention`";
            Err(config.fault(format!(
                "`layer_types` of layer {index} is `{found}`, {known}"
            )))
        }
    }
}

/// Returns the kind of layer `index` by `layer_types`, one of `known`; `None` where they are not
/// listed.
pub(super) fn named_kind<'a>(
    config: &'a ConfigJson,
    index: usize,
    known: &[&str],
) -> Result<Option<&'a str>, ModelError> {
    let Some(kinds) = listed(config)? else {
        return Ok(None);
    };
    match kinds.get(index).and_then(Value::as_str) {
        Some(kind) if known.contains(&kind) => Ok(Some(kind)),
        other => Err(config.fault(format!(
            "`layer_types` of layer {index} is `{}`, known are {}",
            other.unwrap_or("missing"),
            list(known)
        ))),
    }
}

/// Refuses a list whose length is not the number of layers, as transformers does in every family.
pub(super) fn check_length(config: &ConfigJson, layers: usize) -> Result<(), ModelError> {
    match listed(config)? {
        Some(kinds) if kinds.len() != layers => Err(config.fault(format!(
            "`layer_types` has {} layers, expected {layers}, `num_hidden_layers`",
            kinds.len()
        ))),
        _ => Ok(()),
    }
}

fn listed(config: &ConfigJson) -> Result<Option<&Vec<Value>>, ModelError> {
    let Some(kinds) = config.get("layer_types") else {
        return Ok(None);
    };
    match kinds.as_array() {
        Some(kinds) => Ok(Some(kinds)),
        None => Err(config.fault(format!(
            "`layer_types` is `{kinds}`, expected a list with a kind for each layer"
        ))),
    }
}

/// Returns the span of layer `index`; layers with a window need one in the config.
pub(super) fn span(
    config: &ConfigJson,
    index: usize,
    slides: bool,
    window: Option<usize>,
) -> Result<Span, ModelError> {
    match (slides, window) {
        (false, _) => Ok(Span::Full),
        (true, Some(window)) => Ok(Span::Sliding { window }),
        (true, None) => {
            let message = format!(
                "layer {index} has a window and there is no `sliding_window`, \
                expected a number of tokens"
            );
            Err(config.fault(message))
        }
    }
}

/// Returns the window of a config that has to switch it on.
pub(super) fn window_if_used(config: &ConfigJson) -> Result<Option<usize>, ModelError> {
    let window = config.count_or("sliding_window", usize::MAX)?;
    match (config.flag("use_sliding_window", false)?, window) {
        // Where it is off, 0 may stand for none.
        (false, _) | (true, usize::MAX) => Ok(None),
        (true, 0) => Err(config.fault(
            "`use_sliding_window` is `true` and `sliding_window` is 0, expected a number of tokens",
        )),
        (true, window) => Ok(Some(window)),
    }
}

/// Returns the span of layer `index` in families where `layer_types`, or `use_sliding_window` with
/// `max_window_layers`, decides (Qwen 2 and 3).
pub(super) fn span_by_layer(config: &ConfigJson, index: usize) -> Result<Span, ModelError> {
    let window = window_if_used(config)?;
    let slides = match kind_of_layer(config, index)? {
        Some(slides) => slides,
        None => window.is_some() && index >= config.count_or("max_window_layers", 0)?,
    };
    span(config, index, slides, window)
}
