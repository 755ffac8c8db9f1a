//! The section `adapter`: which projections get low-rank matrices, and of what shape.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regex::Regex;

use super::place::Said;
use super::section::{ABOVE_ZERO, Section, Value};
use super::shape::Shape;
use super::tree::{NodeValue, shorten};
use crate::fault::Fault;
use crate::quant::BlockSize;
use crate::terms::{Initial, MAX_RANK, Modules, Offload, Quantization, Technique, TokenIndices};

const MAX_LAYER: u64 = 65_535;
/// PEFT initializations that are not built yet. `pissa_niter_4` and its kind, which draw at random,
/// are handled apart.
const LATER_INITIALIZATIONS: [&str; 6] =
    ["gaussian", "olora", "eva", "corda", "loftq", "orthogonal"];

/// The low-rank adapter, in PEFT's terms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adapter {
    /// The method: adapter or full fine-tuning.
    pub method: Option<Said<Technique>>,
    /// How the base's projections are quantized.
    pub quantization: Option<Said<Quantization>>,
    /// Whether the absmax of blocks are quantized too.
    pub double_quant: Option<Said<bool>>,
    /// The number of weights that share an absmax.
    pub block_size: Option<Said<BlockSize>>,
    /// Whether an untied head is quantized too.
    pub quantize_head: Option<Said<bool>>,
    /// Whether an untied embedding stays in CPU memory.
    pub offload_embedding: Option<Said<Offload>>,
    /// The rank: the inner width of A and B.
    pub r: Option<Said<usize>>,
    /// The numerator of the scale alpha / r.
    pub alpha: Option<Said<f64>>,
    /// The share of A's input that is dropped in training, below 1.
    pub dropout: Option<Said<f64>>,
    /// The projections that get an adapter.
    pub target_modules: Option<Said<Modules>>,
    /// Parameters of all experts of a layer that get an adapter too.
    pub target_parameters: Option<Said<Vec<String>>>,
    /// Scale by alpha / sqrt(r), Kalajdzievski 2023, arXiv:2312.03732.
    pub use_rslora: Option<Said<bool>>,
    /// Whether each output has a magnitude of its own, `DoRA`, Liu et al. 2024, arXiv:2402.09353.
    pub use_dora: Option<Said<bool>>,
    /// Whether B has a bias.
    pub lora_bias: Option<Said<bool>>,
    /// Ranks of the projections that match a pattern.
    pub rank_pattern: BTreeMap<String, Said<usize>>,
    /// Alphas of the projections that match a pattern.
    pub alpha_pattern: BTreeMap<String, Said<f64>>,
    /// The layers that get adapters, from 0; a single number is a list of one.
    pub layers_to_transform: Option<Said<Vec<usize>>>,
    /// The initialization of a fresh adapter.
    pub init_lora_weights: Option<Said<Initial>>,
    /// Embedding and head, if they are trained and saved whole.
    pub modules_to_save: Option<Said<Vec<String>>>,
    /// Tokens whose rows of embedding and head are trained.
    pub trainable_token_indices: Option<Said<TokenIndices>>,
    /// An adapter folder to continue from; shape and targets come from there.
    pub init_from: Option<Said<PathBuf>>,
}

impl Adapter {
    pub(super) fn take(section: &mut Section) -> Self {
        Self {
            method: section.word("method", &[]),
            quantization: section.word("quantization", &[]),
            double_quant: section.flag("double_quant"),
            block_size: section
                .shaped(
                    "block_size",
                    Shape::Numbers(&[32, 64, 128, 256, 512, 1024, 2048, 4096]),
                )
                .and_then(block_size),
            quantize_head: section.flag("quantize_head"),
            offload_embedding: section
                .shaped(
                    "offload_embedding",
                    Shape::OneOf(vec![Shape::Words(vec!["auto"]), Shape::Flag]),
                )
                .and_then(offload),
            r: section.whole("r", 1..=MAX_RANK),
            alpha: section.number("alpha", ABOVE_ZERO),
            dropout: section.number("dropout", 0.0..1.0),
            target_modules: section
                .shaped("target_modules", targets_shape())
                .and_then(targets),
            target_parameters: section
                .shaped("target_parameters", Shape::list(Shape::Text))
                .and_then(names),
            use_rslora: section.flag("use_rslora"),
            use_dora: section.flag("use_dora"),
            lora_bias: section.flag("lora_bias"),
            rank_pattern: section.table_of(
                "rank_pattern",
                Shape::whole(&(1..=MAX_RANK)),
                |key, value| with_regex(value, key)?.whole(1..=MAX_RANK),
            ),
            alpha_pattern: section.table_of(
                "alpha_pattern",
                Shape::number(&ABOVE_ZERO),
                |key, value| with_regex(value, key)?.number(ABOVE_ZERO),
            ),
            layers_to_transform: section
                .shaped("layers_to_transform", layers_shape())
                .and_then(layers),
            init_lora_weights: section
                .shaped(
                    "init_lora_weights",
                    Shape::OneOf(vec![Shape::Flag, Shape::Words(vec!["pissa"])]),
                )
                .and_then(initialization),
            modules_to_save: section
                .shaped(
                    "modules_to_save",
                    Shape::OneOf(vec![Shape::list(Shape::Text), Shape::Off]),
                )
                .filter(is_said)
                .and_then(names),
            trainable_token_indices: section
                .shaped("trainable_token_indices", tokens_shape())
                .filter(is_said)
                .and_then(tokens),
            init_from: section.path("init_from"),
        }
    }

    /// Returns whether the recipe asks for full fine-tuning.
    pub(super) fn is_full(&self) -> bool {
        self.method
            .as_ref()
            .is_some_and(|method| method.value == Technique::Full)
    }
}

fn targets_shape() -> Shape {
    Shape::OneOf(vec![
        Shape::Words(vec!["all-linear"]),
        Shape::filled_list(Shape::Text),
        Shape::Text,
    ])
}

fn layers_shape() -> Shape {
    let layer = || Shape::whole(&(0..=MAX_LAYER));
    Shape::OneOf(vec![layer(), Shape::filled_list(layer())])
}

fn tokens_shape() -> Shape {
    let ids = || Shape::list(Shape::whole(&(0..=u64::from(u32::MAX))));
    Shape::OneOf(vec![ids(), Shape::Table(Box::new(ids())), Shape::Off])
}

fn targets(value: Value) -> Option<Said<Modules>> {
    let place = value.node.place.clone();
    let targets = match &value.node.kind {
        NodeValue::List(nodes) if !nodes.is_empty() => {
            let names = value.list()?.into_iter().filter_map(Value::text);
            Modules::Names(names.map(|name| name.value).collect())
        }
        NodeValue::Scalar { text, .. } if text.eq_ignore_ascii_case("all-linear") => {
            Modules::AllLinear
        }
        NodeValue::Scalar { text, .. } if !text.is_empty() => {
            if let Some(hint) = value.of_others().or_else(|| list_of(text)) {
                let expected = "`all-linear`, a regular expression or a list of names";
                value.refuse(
                    Fault::new(format!(
                        "{}: expected {expected}, found {}",
                        value.name,
                        value.node.found()
                    ))
                    .hint(hint),
                );
                return None;
            }
            with_regex(value, text)?;
            Modules::Regex(text.clone())
        }
        _ => {
            value.mismatch("`all-linear`, a regular expression or a list of names");
            return None;
        }
    };
    Some(Said {
        value: targets,
        place,
    })
}

/// Rewrites names with commas, as `LLaMA-Factory` writes them, as a list.
fn list_of(text: &str) -> Option<String> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || "_.".contains(c))
    };
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    (names.len() > 1 && names.iter().all(|name| is_name(name)))
        .then(|| format!("write a list: `[{}]`", names.join(", ")))
}

/// Returns whether a value turns something on.
fn is_said(value: &Value) -> bool {
    !value.node.is_neutral()
}

pub(super) fn names(value: Value) -> Option<Said<Vec<String>>> {
    let place = value.node.place.clone();
    let names: Vec<String> = value
        .list()?
        .into_iter()
        .filter_map(Value::text)
        .map(|name| name.value)
        .collect();
    Some(Said {
        value: names,
        place,
    })
}

/// Reads token ids: a list, or a list by module.
fn tokens(value: Value) -> Option<Said<TokenIndices>> {
    let place = value.node.place.clone();
    let ids = |value: Value| -> Option<Vec<u32>> {
        let ids = value
            .list()?
            .into_iter()
            .filter_map(|id| id.whole(0..=u64::from(u32::MAX)));
        Some(ids.map(|id| id.value).collect())
    };
    let value = match &value.node.kind {
        NodeValue::Map(_) => {
            let named = value
                .table()?
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), ids(value)?)));
            TokenIndices::Modules(named.collect())
        }
        _ => TokenIndices::Embedding(ids(value)?),
    };
    Some(Said { value, place })
}

/// Returns the value if its pattern is a valid regular expression.
fn with_regex<'a>(value: Value<'a>, pattern: &str) -> Option<Value<'a>> {
    let Err(error) = Regex::new(pattern) else {
        return Some(value);
    };
    let error = error.to_string();
    let reason = error
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .trim_end_matches('.');
    let message = format!(
        "{}: `{}` is not a regular expression that is understood: {reason}",
        value.name,
        shorten(pattern)
    );
    value.refuse(Fault::new(message).hint("syntax: https://docs.rs/regex/latest/regex/#syntax"));
    None
}

fn block_size(value: Value) -> Option<Said<BlockSize>> {
    value.read("a power of 2 from 32 to 4096", |node| {
        BlockSize::new(usize::try_from(node.whole()?).ok()?).ok()
    })
}

fn offload(value: Value) -> Option<Said<Offload>> {
    value.read("`auto`, `true` or `false`", |node| match node.flag() {
        Some(true) => Some(Offload::Always),
        Some(false) => Some(Offload::Never),
        None => (node.text() == Some("auto")).then_some(Offload::Auto),
    })
}

fn layers(value: Value) -> Option<Said<Vec<usize>>> {
    let place = value.node.place.clone();
    match &value.node.kind {
        NodeValue::List(nodes) if !nodes.is_empty() => {
            let layers = value
                .list()?
                .into_iter()
                .filter_map(|layer| layer.whole(0..=MAX_LAYER));
            Some(Said {
                value: layers.map(|layer| layer.value).collect(),
                place,
            })
        }
        _ => Some(value.whole(0..=MAX_LAYER)?.map(|layer| vec![layer])),
    }
}

fn initialization(value: Value) -> Option<Said<Initial>> {
    let written = value.node.text().unwrap_or_default();
    if LATER_INITIALIZATIONS.contains(&written) || written.starts_with("pissa_niter_") {
        value.refuse_for_now("valid now: `true`, `false` and `pissa`");
        return None;
    }
    value.read("`true`, `false` or `pissa`", |node| match node.flag() {
        Some(true) => Some(Initial::Zero),
        Some(false) => Some(Initial::Drawn),
        None => (node.text() == Some("pissa")).then_some(Initial::Principal),
    })
}
