//! The section `training`, and the parts of `evaluation` and `output` that the training loop needs,
//! filled.

use serde_json::json;

use super::base::Base;
use super::filled::Filled;
use super::rates::{Warmup, course, optimizer};
use crate::data::{Limits, Packing};
use crate::fault::Fault;
use crate::recipe::Recipe;
use crate::terms::{Checkpointing, Format, ModelDtype, OnNonfinite, Optimizer, Truncation};
use crate::train::{OptimizerConfig, RateCourse};

/// The loop's values that do not depend on the number of rows.
#[derive(Debug, Clone)]
pub(super) struct Training {
    pub packing: Packing,
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub num_epochs: usize,
    pub max_steps: Option<usize>,
    pub learning_rate: f64,
    pub course: RateCourse,
    pub warmup: Warmup,
    /// The recipe's word for the optimizer.
    pub optimizer_word: Optimizer,
    pub optimizer: OptimizerConfig,
    pub max_grad_norm: f64,
    pub checkpointing: Checkpointing,
    pub max_memory_bytes: Option<u64>,
    pub on_nonfinite: OnNonfinite,
    pub seed: u64,
    pub shuffle: bool,
    pub eval_steps: usize,
    pub early_stopping_patience: usize,
    pub save_steps: usize,
    pub save_total_limit: usize,
    pub model_dtype: ModelDtype,
    pub allow_tf32: bool,
}

/// Refuses rows that are longer than a base with learned positions has positions.
pub(super) fn check_positions(
    recipe: &Recipe,
    limits: &Limits,
    base: Option<&Base>,
    faults: &mut Vec<Fault>,
) {
    let Some(spec) = base
        .map(|base| &base.model.spec)
        .filter(|spec| spec.learns_positions && limits.sequence_len > spec.context)
    else {
        return;
    };
    let fault = Fault::new(format!(
        "training.sequence_len is {}, the base has learned {} positions",
        limits.sequence_len, spec.context
    ))
    .hint(format!(
        "set `training.sequence_len: {}` or less",
        spec.context
    ));
    faults.push(match &recipe.training.sequence_len {
        Some(said) => fault.at(&said.place),
        None => fault,
    });
}

/// Fills the training values.
pub(super) fn training(recipe: &Recipe, filled: &mut Filled) -> (Limits, f64, Training) {
    let (said, evaluation, output) = (&recipe.training, &recipe.evaluation, &recipe.output);
    let limits = Limits {
        sequence_len: filled.plain("training.sequence_len", said.sequence_len.as_ref(), 512),
        truncation: filled.word(
            "training.truncation",
            said.truncation.as_ref(),
            Truncation::Drop,
        ),
    };
    let is_packed = filled.plain(
        "training.sample_packing",
        said.sample_packing.as_ref(),
        false,
    );
    let max_dropped = filled.plain("training.max_dropped", said.max_dropped.as_ref(), 0.05);
    let (optimizer_word, optimizer) = optimizer(said, filled);
    let model_dtype = filled.word(
        "training.model_dtype",
        said.model_dtype.as_ref(),
        ModelDtype::Auto,
    );
    let allow_tf32 = filled.plain("training.allow_tf32", said.allow_tf32.as_ref(), false);
    let said_checkpointing = said.gradient_checkpointing.as_ref();
    let checkpointing = filled.fill(
        "training.gradient_checkpointing",
        said_checkpointing,
        Checkpointing::Auto,
        |choice| match choice {
            Checkpointing::Auto => json!("auto"),
            Checkpointing::All => json!(true),
            Checkpointing::None => json!(false),
            Checkpointing::Lowest(blocks) => json!(blocks),
        },
    );
    let kind = recipe.objective.type_or_default();
    let rates = course(said, optimizer.rule, kind, filled);
    let training = Training {
        model_dtype,
        allow_tf32,
        packing: if is_packed {
            // A pair has two sequences, which stay together.
            let sequences = if kind.formats().contains(&Format::Preference) {
                2
            } else {
                1
            };
            Packing::BestFit {
                tokens: limits.sequence_len * sequences,
            }
        } else {
            Packing::Off
        },
        micro_batch_size: filled.plain(
            "training.micro_batch_size",
            said.micro_batch_size.as_ref(),
            1,
        ),
        gradient_accumulation_steps: filled.plain(
            "training.gradient_accumulation_steps",
            said.gradient_accumulation_steps.as_ref(),
            1,
        ),
        num_epochs: filled.plain("training.num_epochs", said.num_epochs.as_ref(), 1),
        max_steps: filled.optional("training.max_steps", said.max_steps.as_ref(), |steps| {
            json!(steps)
        }),
        learning_rate: rates.peak,
        course: rates.course,
        warmup: rates.warmup,
        optimizer_word,
        optimizer,
        max_grad_norm: filled.plain("training.max_grad_norm", said.max_grad_norm.as_ref(), 1.0),
        checkpointing,
        max_memory_bytes: filled.optional(
            "training.max_memory",
            said.max_memory.as_ref(),
            |bytes| json!(bytes),
        ),
        on_nonfinite: filled.word(
            "training.on_nonfinite",
            said.on_nonfinite.as_ref(),
            OnNonfinite::Abort,
        ),
        seed: filled.plain("training.seed", said.seed.as_ref(), 42),
        shuffle: filled.plain("training.shuffle", said.shuffle.as_ref(), true),
        eval_steps: filled.plain("evaluation.eval_steps", evaluation.eval_steps.as_ref(), 0),
        early_stopping_patience: filled.plain(
            "evaluation.early_stopping_patience",
            evaluation.early_stopping_patience.as_ref(),
            0,
        ),
        save_steps: filled.plain("output.save_steps", output.save_steps.as_ref(), 0),
        save_total_limit: filled.plain(
            "output.save_total_limit",
            output.save_total_limit.as_ref(),
            2,
        ),
    };
    (limits, max_dropped, training)
}
