//! The section `training`: how rows become steps and steps become updates.

use std::ops::Bound;

use super::place::{Location, Said};
use super::section::{ABOVE_ZERO, Section, Value};
use super::shape::Shape;
use crate::terms::{
    AdjustLr, Checkpointing, Curve, Deduplicate, EpochEnd, ModelDtype, OnNonfinite, Optimizer,
    Scheduler, Truncation,
};

/// The longest row in tokens, and the largest batch and accumulation in rows. Their product stays
/// within 64 bits.
const MAX_TOKENS: u64 = 1 << 20;
const MAX_ROWS: u64 = 1 << 16;
/// The highest number of epochs or steps.
pub(super) const MAX_COUNT: u64 = 1_000_000_000;

/// The highest power, and the highest number of waves, of a schedule.
const MAX_SHAPE: f64 = 1e6;

/// Known optimizers that are not built yet.
const LATER_OPTIMIZERS: [&str; 29] = [
    "adam",
    "sgd",
    "adagrad",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "adamw_apex_fused",
    "adamw_anyprecision",
    "adamw_torch_4bit",
    "adamw_torch_8bit",
    "adamw_torch_xla",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adafactor",
    "lomo",
    "adalomo",
    "grokadamw",
    "schedule_free_radam",
    "schedule_free_sgd",
    "apollo_adamw",
    "stable_adamw",
    "ao_adamw_8bit",
    "ao_adamw_4bit",
    "ao_adamw_fp8",
];
/// Known schedules that are not built yet.
const LATER_SCHEDULERS: [&str; 3] = ["reduce_lr_on_plateau", "rex", "greedy"];

/// Batches, schedule and optimizer, in the field's terms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Training {
    /// The maximum row length, in tokens.
    pub sequence_len: Option<Said<usize>>,
    /// Whether short rows are packed into rows of `sequence_len` tokens.
    pub sample_packing: Option<Said<bool>>,
    /// Whether rows are shuffled in every epoch.
    pub shuffle: Option<Said<bool>>,
    /// How many rows an epoch draws from datasets with weights.
    pub stopping_strategy: Option<Said<EpochEnd>>,
    /// Which rows are left out because an earlier one is similar.
    pub deduplicate: Option<Said<Deduplicate>>,
    /// The Jaccard similarity from which rows are near-duplicates.
    pub near_threshold: Option<Said<f64>>,
    /// What happens to longer rows.
    pub truncation: Option<Said<Truncation>>,
    /// The highest share of rows that may be left out, from 0 to 1.
    pub max_dropped: Option<Said<f64>>,
    /// Rows, or packed rows, per micro-batch.
    pub micro_batch_size: Option<Said<usize>>,
    /// Micro-batches per optimizer step.
    pub gradient_accumulation_steps: Option<Said<usize>>,
    /// Passes over the data.
    pub num_epochs: Option<Said<usize>>,
    /// Optimizer steps; takes precedence over `num_epochs`.
    pub max_steps: Option<Said<usize>>,
    /// The peak of the learning rate.
    pub learning_rate: Option<Said<f64>>,
    /// The learning rate of B as a multiple of A's (`LoRA+`), Hayou et al. 2024, arXiv:2402.12354;
    /// for adapters only.
    pub loraplus_lr_ratio: Option<Said<f64>>,
    /// The update rule.
    pub optimizer: Option<Said<Optimizer>>,
    /// Decay of the first moment, below 1.
    pub adam_beta1: Option<Said<f64>>,
    /// Decay of the second moment, below 1.
    pub adam_beta2: Option<Said<f64>>,
    /// Added to the root of the second moment.
    pub adam_epsilon: Option<Said<f64>>,
    /// Weights with fewer elements keep a 32-bit state.
    pub min_8bit_size: Option<Said<usize>>,
    /// Adafactor's momentum decay, below 1; without it there is no momentum.
    pub beta1: Option<Said<f64>>,
    /// Adafactor's decay exponent of the mean squares, below 0.
    pub decay_rate: Option<Said<f64>>,
    /// The highest root mean square of an Adafactor update.
    pub clip_threshold: Option<Said<f64>>,
    /// Whether Adafactor's learning rate is multiplied by the weight's root mean square.
    pub scale_parameter: Option<Said<bool>>,
    /// Whether Adafactor's learning rate follows from the number of updates.
    pub relative_step: Option<Said<bool>>,
    /// Whether that learning rate starts low.
    pub warmup_init: Option<Said<bool>>,
    /// Muon's momentum decay, below 1.
    pub momentum: Option<Said<f64>>,
    /// How Muon's learning rate depends on a matrix's shape.
    pub adjust_lr_fn: Option<Said<AdjustLr>>,
    /// The learning rate schedule after the warm-up.
    pub lr_scheduler: Option<Said<Scheduler>>,
    /// The lowest learning rate as a share of the peak; not together with `min_lr`.
    pub min_lr_rate: Option<Said<f64>>,
    /// The lowest learning rate.
    pub min_lr: Option<Said<f64>>,
    /// The first learning rate of a warm-up as a share of the peak.
    pub warmup_lr_rate: Option<Said<f64>>,
    /// The number of waves of a cosine, or of restarts.
    pub num_cycles: Option<Said<f64>>,
    /// The power of a polynomial schedule.
    pub power: Option<Said<f64>>,
    /// The last learning rate of a polynomial schedule.
    pub lr_end: Option<Said<f64>>,
    /// The time scale of an inverse square root schedule, in steps.
    pub timescale: Option<Said<usize>>,
    /// Steps of the last stage.
    pub num_decay_steps: Option<Said<usize>>,
    /// Steps of the middle stage.
    pub num_stable_steps: Option<Said<usize>>,
    /// The learning rate before the first stage and after the last as a share of the peak.
    pub min_lr_ratio: Option<Said<f64>>,
    /// The curve of the first stage.
    pub warmup_type: Option<Said<Curve>>,
    /// The curve of the last stage.
    pub decay_type: Option<Said<Curve>>,
    /// Linear warm-up as a share of all steps; not together with `warmup_steps`.
    pub warmup_ratio: Option<Said<f64>>,
    /// Steps of linear warm-up.
    pub warmup_steps: Option<Said<usize>>,
    /// Decoupled weight decay.
    pub weight_decay: Option<Said<f64>>,
    /// The highest global L2 norm of the gradients; 0 turns clipping off.
    pub max_grad_norm: Option<Said<f64>>,
    /// The coefficient of the load-balancing loss of routed experts; 0 for none.
    pub router_aux_loss_coef: Option<Said<f64>>,
    /// If 0, the dropout and noise of the base's own `config.json`, which act only in training and
    /// are not built, are left out.
    pub base_dropout: Option<Said<f64>>,
    /// Which blocks are recomputed in the backward pass.
    pub gradient_checkpointing: Option<Said<Checkpointing>>,
    /// The memory limit of the run at its peak, in bytes.
    pub max_memory: Option<Said<u64>>,
    /// The dtype of a frozen base's matrices.
    pub model_dtype: Option<Said<ModelDtype>>,
    /// Whether products of float32 operands may be computed in TF32.
    pub allow_tf32: Option<Said<bool>>,
    /// What happens when a loss is not finite.
    pub on_nonfinite: Option<Said<OnNonfinite>>,
    /// The seed of shuffling, initialization and dropout.
    pub seed: Option<Said<u64>>,
}

impl Training {
    pub(super) fn take(section: &mut Section) -> Self {
        Self {
            sequence_len: section.whole("sequence_len", 2..=MAX_TOKENS),
            sample_packing: section.flag("sample_packing"),
            shuffle: section.flag("shuffle"),
            stopping_strategy: section.word("stopping_strategy", &[]),
            deduplicate: section.word("deduplicate", &[]),
            near_threshold: section.number("near_threshold", 0.5..=1.0),
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
            min_8bit_size: section.whole("min_8bit_size", 0..=MAX_COUNT),
            beta1: section.number("beta1", 0.0..1.0),
            decay_rate: section.number("decay_rate", -1e3..0.0),
            clip_threshold: section.number("clip_threshold", ABOVE_ZERO),
            scale_parameter: section.flag("scale_parameter"),
            relative_step: section.flag("relative_step"),
            warmup_init: section.flag("warmup_init"),
            momentum: section.number("momentum", 0.0..1.0),
            adjust_lr_fn: section.word("adjust_lr_fn", &[]),
            lr_scheduler: section.word("lr_scheduler", &LATER_SCHEDULERS),
            min_lr_rate: section.number("min_lr_rate", 0.0..=1.0),
            min_lr: section.number("min_lr", 0.0..=1e30),
            warmup_lr_rate: section.number("warmup_lr_rate", 0.0..=1.0),
            num_cycles: section.number(
                "num_cycles",
                (Bound::Excluded(0.0), Bound::Included(MAX_SHAPE)),
            ),
            power: section.number("power", (Bound::Excluded(0.0), Bound::Included(MAX_SHAPE))),
            lr_end: section.number("lr_end", 0.0..=1e30),
            timescale: section.whole("timescale", 1..=MAX_COUNT),
            num_decay_steps: section.whole("num_decay_steps", 0..=MAX_COUNT),
            num_stable_steps: section.whole("num_stable_steps", 0..=MAX_COUNT),
            min_lr_ratio: section.number("min_lr_ratio", 0.0..=1.0),
            warmup_type: section.word("warmup_type", &[]),
            decay_type: section.word("decay_type", &[]),
            warmup_ratio: section.number("warmup_ratio", 0.0..=1.0),
            warmup_steps: section.whole("warmup_steps", 0..=MAX_COUNT),
            weight_decay: section.number("weight_decay", 0.0..),
            max_grad_norm: section.number("max_grad_norm", 0.0..),
            router_aux_loss_coef: section.number("router_aux_loss_coef", 0.0..),
            base_dropout: section
                .shaped("base_dropout", Shape::Numbers(&[0]))
                .and_then(|value| {
                    value.read("0: the base's own dropout is left out", |node| {
                        node.number().filter(|share| *share == 0.0)
                    })
                }),
            gradient_checkpointing: section
                .shaped("gradient_checkpointing", blocks())
                .and_then(checkpointing),
            max_memory: section.shaped("max_memory", bytes()).and_then(|value| {
                value.read("a number of bytes, such as `12 GB` or `12GiB`", |node| {
                    node.bytes().filter(|bytes| *bytes > 0)
                })
            }),
            model_dtype: section.word("model_dtype", &[]),
            allow_tf32: section.flag("allow_tf32"),
            on_nonfinite: section.word("on_nonfinite", &[]),
            seed: section.whole("seed", 0..),
        }
    }
}

fn blocks() -> Shape {
    Shape::OneOf(vec![
        Shape::Words(vec!["auto"]),
        Shape::Flag,
        Shape::whole(&(0..)),
    ])
}

fn bytes() -> Shape {
    Shape::OneOf(vec![
        Shape::whole(&(1..)),
        Shape::Pattern(r"^([1-9][0-9_]*|[0-9][0-9_]*(\.[0-9]+)? *([kKmMgGtT][iI]?)?[bB])$"),
    ])
}

impl Training {
    /// Returns the place of a key that only some optimizers or schedules have.
    pub(super) fn place_of(&self, key: &str) -> Option<&Location> {
        fn place<T>(said: Option<&Said<T>>) -> Option<&Location> {
            said.map(|said| &said.place)
        }
        match key {
            "adam_beta1" => place(self.adam_beta1.as_ref()),
            "adam_beta2" => place(self.adam_beta2.as_ref()),
            "adam_epsilon" => place(self.adam_epsilon.as_ref()),
            "min_8bit_size" => place(self.min_8bit_size.as_ref()),
            "beta1" => place(self.beta1.as_ref()),
            "decay_rate" => place(self.decay_rate.as_ref()),
            "clip_threshold" => place(self.clip_threshold.as_ref()),
            "scale_parameter" => place(self.scale_parameter.as_ref()),
            "relative_step" => place(self.relative_step.as_ref()),
            "warmup_init" => place(self.warmup_init.as_ref()),
            "momentum" => place(self.momentum.as_ref()),
            "adjust_lr_fn" => place(self.adjust_lr_fn.as_ref()),
            "min_lr_rate" => place(self.min_lr_rate.as_ref()),
            "min_lr" => place(self.min_lr.as_ref()),
            "warmup_lr_rate" => place(self.warmup_lr_rate.as_ref()),
            "num_cycles" => place(self.num_cycles.as_ref()),
            "power" => place(self.power.as_ref()),
            "lr_end" => place(self.lr_end.as_ref()),
            "timescale" => place(self.timescale.as_ref()),
            "num_decay_steps" => place(self.num_decay_steps.as_ref()),
            "num_stable_steps" => place(self.num_stable_steps.as_ref()),
            "min_lr_ratio" => place(self.min_lr_ratio.as_ref()),
            "warmup_type" => place(self.warmup_type.as_ref()),
            "decay_type" => place(self.decay_type.as_ref()),
            "learning_rate" => place(self.learning_rate.as_ref()),
            "lr_scheduler" => place(self.lr_scheduler.as_ref()),
            "warmup_ratio" => place(self.warmup_ratio.as_ref()),
            "warmup_steps" => place(self.warmup_steps.as_ref()),
            _ => None,
        }
    }
}

fn checkpointing(value: Value) -> Option<Said<Checkpointing>> {
    value.read(
        "`auto`, `true`, `false` or a whole number of blocks",
        |node| match (node.flag(), node.whole()) {
            (Some(true), _) => Some(Checkpointing::All),
            (Some(false), _) => Some(Checkpointing::None),
            (None, Some(blocks)) => usize::try_from(blocks).ok().map(Checkpointing::Lowest),
            (None, None) => (node.text() == Some("auto")).then_some(Checkpointing::Auto),
        },
    )
}
