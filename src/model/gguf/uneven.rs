//! Gemma 4 as llama.cpp has it (`src/models/gemma4.cpp`, `conversion/gemma.py`): heads of two
//! widths, normalized values, keys and values of lower layers, and inputs of the layers' own.

use super::carried::PlacedTensor;
use super::change::Change;
use super::differences::{Lack, window};
use super::keys::Pair;
use super::value::Value;
use crate::model::{DecoderSpec, GatedSpec, GroupedSpec, KeyValues, LayerSpec, MlpSpec};
use crate::nn::attention::Span;
use crate::nn::rope::RopeScaling;
use crate::ops::Activation;

/// The last layers that share keys and values use those of the layer before the first of them, or,
/// with a window, of the one before that.
const BEHIND: [usize; 2] = [1, 2];

/// Returns the first layer without a window, or the first one.
pub(crate) fn wide(spec: &DecoderSpec) -> &LayerSpec {
    let sees_all = |layer: &&LayerSpec| window(layer).is_none();
    spec.layers.iter().find(sees_all).unwrap_or(&spec.layers[0])
}

fn narrow(spec: &DecoderSpec) -> Option<&LayerSpec> {
    spec.layers.iter().find(|layer| window(layer).is_some())
}

/// Returns the differences of a decoder's layers from llama.cpp's.
pub(crate) fn lacks(spec: &DecoderSpec) -> Vec<Lack> {
    let layers = &spec.layers;
    let of_kind = |layer: &LayerSpec| match narrow(spec).filter(|_| window(layer).is_some()) {
        Some(narrow) => narrow.mixer.heads(),
        None => wide(spec).mixer.heads(),
    };
    let shape = |layer: &LayerSpec| {
        let [heads, ..] = wide(spec).mixer.heads();
        layer.mixer.heads() == of_kind(layer) && layer.mixer.heads()[0] == heads
    };
    let own = own(spec);
    let source = |(index, layer): (usize, &LayerSpec)| {
        let behind = BEHIND[usize::from(window(layer).is_some())];
        layer.mixer.source() == own.checked_sub(behind).filter(|_| index >= own)
    };
    let input = |layer: &LayerSpec| layer.per_layer_input == layers[0].per_layer_input;
    let activation = layers[0].per_layer_input.map(|input| input.activation);
    let rope = wide(spec).mixer.rope().map(|rope| &rope.scaling);
    let judged = [
        (
            !matches!(rope, Some(RopeScaling::Proportional { .. })),
            "layers without a window that do not rotate a part of the pairs",
            "layers that do",
        ),
        (
            !layers.iter().all(shape),
            "heads of more than two shapes",
            "one for layers with a window and one for the others",
        ),
        (
            !layers.iter().all(|layer| alike(&layers[0], layer)),
            "layers that differ in more than their heads",
            "layers of one kind",
        ),
        (
            !layers.iter().all(normalizes_values),
            "values as they are projected",
            "normalized values",
        ),
        (
            !layers.iter().enumerate().all(source),
            "keys and values of these layers",
            "those of the two layers below the first that has none",
        ),
        (
            !layers.iter().all(input) || activation.is_some_and(|of| of != Activation::GeluTanh),
            "these inputs of the layers' own",
            "one of one width for every layer, with a gate of GELU",
        ),
    ];
    judged
        .into_iter()
        .filter(|(lacks, ..)| *lacks)
        .map(|(_, has, takes)| Lack::new(has, takes))
        .collect()
}

/// Returns the number of layers below the first that uses the keys of another.
fn own(spec: &DecoderSpec) -> usize {
    let shares = |layer: &LayerSpec| layer.mixer.source().is_some();
    let first = spec.layers.iter().position(shares);
    first.unwrap_or(spec.layers.len())
}

fn normalizes_values(layer: &LayerSpec) -> bool {
    layer.mixer.grouped().is_some_and(|mixer| mixer.value_norm)
}

/// Whether two layers are alike but for the shape of heads, the source of their keys, rotation,
/// window and the width of the feed-forward.
fn alike(left: &LayerSpec, right: &LayerSpec) -> bool {
    let mixer = |layer: &LayerSpec| {
        layer.mixer.grouped().map(|mixer| GroupedSpec {
            kv_heads: 1,
            head_dim: 1,
            key_values: KeyValues::Projected,
            rope: None,
            span: Span::Full,
            ..mixer.clone()
        })
    };
    let mlp = |layer: &LayerSpec| match &layer.mlp {
        MlpSpec::Gated(gated) => MlpSpec::Gated(GatedSpec {
            inner: 1,
            ..gated.clone()
        }),
        other => other.clone(),
    };
    let rest = |layer: &LayerSpec| (layer.norms, layer.has_scalar);
    mixer(left) == mixer(right) && mlp(left) == mlp(right) && rest(left) == rest(right)
}

/// Returns a number of every layer, or one where it is the same for all.
pub(crate) fn by_layer(spec: &DecoderSpec, of: impl Fn(&LayerSpec) -> usize) -> Value {
    let first = of(&spec.layers[0]);
    if spec.layers.iter().all(|layer| of(layer) == first) {
        return Value::U32(first as u32);
    }
    Value::sizes(spec.layers.iter().map(of))
}

/// Returns the hyperparameters that only such layers have.
pub(crate) fn keys(spec: &DecoderSpec) -> Vec<Pair> {
    let size = |size: usize| Value::U32(size as u32);
    let [_, _, head_dim] = narrow(spec).unwrap_or_else(|| wide(spec)).mixer.heads();
    let shared = spec.layers.len() - own(spec);
    let input = spec.layers[0].per_layer_input;
    vec![
        ("attention.key_length_swa", size(head_dim)),
        ("attention.value_length_swa", size(head_dim)),
        ("rope.dimension_count_swa", size(head_dim)),
        ("attention.shared_kv_layers", size(shared)),
        (
            "embedding_length_per_layer_input",
            size(input.map_or(0, |input| input.width)),
        ),
    ]
}

/// Returns the place of the factor of a layer's output; `None` where a tensor is something else.
pub(crate) fn scalar(name: &str, spec: &DecoderSpec) -> Option<PlacedTensor> {
    let layer = name
        .strip_prefix(spec.names.stem)?
        .strip_prefix(spec.names.layers)?
        .strip_prefix('.')?
        .strip_suffix(".layer_scalar")?;
    Some(PlacedTensor {
        name: format!("blk.{layer}.layer_output_scale.weight"),
        shape: vec![1],
        change: Change::NONE,
    })
}
