//! The section `training`: how rows become steps and steps become updates.

use super::place::Said;
use super::section::{ABOVE_ZERO, Section, Value};
use super::shape::Shape;
use crate::terms::{Checkpointing, ModelDtype, OnNonfinite, Optimizer, Scheduler, Truncation};

/// The longest row, in tokens, and the largest batch and accumulation, in rows: their product stays within 64 bits.
const MAX_TOKENS: u64 = 1 << 20;
const MAX_ROWS: u64 = 1 << 16;
/// The highest number of epochs or steps.
pub(super) const MAX_COUNT: u64 = 1_000_000_000;

/// Optimizers of the field that are not built yet.
const LATER_OPTIMIZERS: [&str; 9] =
    ["adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adam", "adafactor", "sgd", "lion", "muon"];

/// Batches, schedule and optimizer, in the field's terms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Training {
    /// The longest row, in tokens.
    pub sequence_len: Option<Said<usize>>,
    /// Whether short rows are packed into rows of `sequence_len` tokens.
    pub sample_packing: Option<Said<bool>>,
    /// Whether rows are shuffled every epoch.
    pub shuffle: Option<Said<bool>>,
    /// What happens to longer rows.
    pub truncation: Option<Said<Truncation>>,
    /// The highest share of rows that may be left out, from 0 to 1.
    pub max_dropped: Option<Said<f64>>,
    /// Rows, or packs of rows, that are computed at once.
    pub micro_batch_size: Option<Said<usize>>,
    /// Micro-batches in one optimizer step.
    pub gradient_accumulation_steps: Option<Said<usize>>,
    /// Passes over the data.
    pub num_epochs: Option<Said<usize>>,
    /// Optimizer steps; wins over `num_epochs`.
    pub max_steps: Option<Said<usize>>,
    /// The peak of the learning rate.
    pub learning_rate: Option<Said<f64>>,
    /// The learning rate of B as a multiple of A's, Hayou et al. 2024, arXiv:2402.12354; of adapters only.
    pub loraplus_lr_ratio: Option<Said<f64>>,
    /// The update rule.
    pub optimizer: Option<Said<Optimizer>>,
    /// Decay of the first moment, below 1.
    pub adam_beta1: Option<Said<f64>>,
    /// Decay of the second moment, below 1.
    pub adam_beta2: Option<Said<f64>>,
    /// Added to the root of the second moment.
    pub adam_epsilon: Option<Said<f64>>,
    /// The learning rate's course after the warm-up.
    pub lr_scheduler: Option<Said<Scheduler>>,
    /// The lowest learning rate as a share of the peak; of `cosine_with_min_lr` only.
    pub min_lr_rate: Option<Said<f64>>,
    /// Steps of linear warm-up as a share of all; not together with `warmup_steps`.
    pub warmup_ratio: Option<Said<f64>>,
    /// Steps of linear warm-up.
    pub warmup_steps: Option<Said<usize>>,
    /// Decoupled weight decay.
    pub weight_decay: Option<Said<f64>>,
    /// The gradients' highest global L2 norm; 0 leaves them as they are.
    pub max_grad_norm: Option<Said<f64>>,
    /// What the load-balancing loss of routed experts counts; 0: nothing.
    pub router_aux_loss_coef: Option<Said<f64>>,
    /// 0: dropout and noise of the base's own config.json, which act in training only and are not built, are left out.
    pub base_dropout: Option<Said<f64>>,
    /// Which blocks run again in backward.
    pub gradient_checkpointing: Option<Said<Checkpointing>>,
    /// Bytes that the run may need at its peak.
    pub max_memory: Option<Said<u64>>,
    /// The numbers that the matrices of a frozen base are kept in.
    pub model_dtype: Option<Said<ModelDtype>>,
    /// Whether products of float32 operands may be computed in TF32.
    pub allow_tf32: Option<Said<bool>>,
    /// What a loss that is not finite leads to.
    pub on_nonfinite: Option<Said<OnNonfinite>>,
    /// The seed of shuffling, initialisation and dropout.
    pub seed: Option<Said<u64>>,
}

impl Training {
    pub(super) fn take(section: &mut Section) -> Self {
        Self {
            sequence_len: section.whole("sequence_len", 2..=MAX_TOKENS),
            sample_packing: section.flag("sample_packing"),
            shuffle: section.flag("shuffle"),
            truncation: section.word("truncation", &[]),
            max_dropped: section.number("max_dropped", 0.0..=1.0),
            micro_batch_size: section.whole("micro_batch_size", 1..=MAX_ROWS),
            gradient_accumulation_steps: section.whole("gradient_accumulation_steps", 1..=MAX_ROWS),
            num_epochs: section.whole("num_epochs", 1..=MAX_COUNT),
            max_steps: section.whole("max_steps", 1..=MAX_COUNT),
            learning_rate: section.number("learning_rate", ABOVE_ZERO),
            loraplus_lr_ratio: section.number("loraplus_lr_ratio", ABOVE_ZERO),
            optimizer: section.word("optimizer", &LATER_OPTIMIZERS),
            adam_beta1: section.number("adam_beta1", 0.0..1.0),
            adam_beta2: section.number("adam_beta2", 0.0..1.0),
            adam_epsilon: section.number("adam_epsilon", ABOVE_ZERO),
            lr_scheduler: section.word("lr_scheduler", &[]),
            min_lr_rate: section.number("min_lr_rate", 0.0..=1.0),
            warmup_ratio: section.number("warmup_ratio", 0.0..=1.0),
            warmup_steps: section.whole("warmup_steps", 0..=MAX_COUNT),
            weight_decay: section.number("weight_decay", 0.0..),
            max_grad_norm: section.number("max_grad_norm", 0.0..),
            router_aux_loss_coef: section.number("router_aux_loss_coef", 0.0..),
            base_dropout: section.shaped("base_dropout", Shape::Numbers(&[0])).and_then(|value| {
                value.read("0: the base's own dropout is left out", |node| node.number().filter(|share| *share == 0.0))
            }),
            gradient_checkpointing: section.shaped("gradient_checkpointing", blocks()).and_then(checkpointing),
            max_memory: section.shaped("max_memory", bytes()).and_then(|value| {
                value.read("a number of bytes, such as `12 GB` or `12GiB`", |node| node.bytes().filter(|bytes| *bytes > 0))
            }),
            model_dtype: section.word("model_dtype", &[]),
            allow_tf32: section.flag("allow_tf32"),
            on_nonfinite: section.word("on_nonfinite", &[]),
            seed: section.whole("seed", 0..),
        }
    }
}

fn blocks() -> Shape {
    Shape::OneOf(vec![Shape::Words(vec!["auto"]), Shape::Flag, Shape::whole(&(0..))])
}

fn bytes() -> Shape {
    Shape::OneOf(vec![Shape::whole(&(1..)), Shape::Pattern(r"^([1-9][0-9_]*|[0-9][0-9_]*(\.[0-9]+)? *([kKmMgGtT][iI]?)?[bB])$")])
}

fn checkpointing(value: Value) -> Option<Said<Checkpointing>> {
    value.read("`auto`, `true`, `false` or a whole number of blocks", |node| match (node.flag(), node.whole()) {
        (Some(true), _) => Some(Checkpointing::All),
        (Some(false), _) => Some(Checkpointing::None),
        (None, Some(blocks)) => usize::try_from(blocks).ok().map(Checkpointing::Lowest),
        (None, None) => (node.text() == Some("auto")).then_some(Checkpointing::Auto),
    })
}
