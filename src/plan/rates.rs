//! The optimizer and its learning rates, filled. Only keys that the chosen optimizer and schedule
//! use are filled, so that the lock has no values without effect.

use serde_json::json;

use super::filled::Filled;
use crate::fault::Fault;
use crate::recipe::{Recipe, Training};
use crate::terms::{AdjustLr, Curve, ObjectiveType, Optimizer, Scheduler};
use crate::train::{
    Adafactor, AdamWConfig, Muon, OptimizerConfig, RateCourse, Rule, WarmupStableDecay,
};

/// The peak of the learning rate, and its schedule.
pub(super) struct Rates {
    pub peak: f64,
    pub course: RateCourse,
    pub warmup: Warmup,
}

/// The default learning rate.
const LEARNING_RATE: f64 = 2e-4;
/// The same for preferences. TRL's default, 1e-6, is for training of all weights; users of adapters
/// raise it to 5e-6 to 5e-5.
const OF_PREFERENCES: f64 = 1e-5;
/// The length of the warm-up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Warmup {
    Steps(usize),
    Ratio(f64),
}

/// Weights with fewer elements keep a 32-bit state, as in bitsandbytes.
const MIN_8BIT_SIZE: usize = 4096;

/// Returns the optimizer, by its word and with its config.
pub(super) fn optimizer(said: &Training, filled: &mut Filled) -> (Optimizer, OptimizerConfig) {
    let word = filled.word(
        "training.optimizer",
        said.optimizer.as_ref(),
        Optimizer::AdamW,
    );
    let resident = word.resident();
    let has = |key: &str| {
        Optimizer::KEYS
            .iter()
            .any(|(name, owners)| *name == key && owners.contains(&resident))
    };
    let is_lion = matches!(resident, Optimizer::Lion | Optimizer::Lion8bit);
    let mut number = |key: &str, said, default: f64| {
        if has(key) {
            filled.plain(&format!("training.{key}"), said, default)
        } else {
            default
        }
    };
    let adamw = AdamWConfig {
        beta1: number("adam_beta1", said.adam_beta1.as_ref(), 0.9),
        beta2: number(
            "adam_beta2",
            said.adam_beta2.as_ref(),
            if is_lion { 0.99 } else { 0.999 },
        ),
        epsilon: number("adam_epsilon", said.adam_epsilon.as_ref(), 1e-8),
        weight_decay: filled.plain("training.weight_decay", said.weight_decay.as_ref(), 0.0),
        loraplus_lr_ratio: filled
            .optional(
                "training.loraplus_lr_ratio",
                said.loraplus_lr_ratio.as_ref(),
                |ratio| json!(ratio),
            )
            .unwrap_or(1.0),
    };
    let mut min_8bit_size = || {
        filled.plain(
            "training.min_8bit_size",
            said.min_8bit_size.as_ref(),
            MIN_8BIT_SIZE,
        )
    };
    let rule = match resident {
        Optimizer::AdamW8bit => Rule::AdamW8bit {
            min_8bit_size: min_8bit_size(),
        },
        Optimizer::Lion8bit => Rule::Lion8bit {
            min_8bit_size: min_8bit_size(),
        },
        Optimizer::Lion => Rule::Lion,
        Optimizer::Adafactor => Rule::Adafactor(adafactor(said, filled)),
        Optimizer::Muon => Rule::Muon(Muon {
            momentum: filled.plain("training.momentum", said.momentum.as_ref(), 0.95),
            adjust_lr: filled.word(
                "training.adjust_lr_fn",
                said.adjust_lr_fn.as_ref(),
                AdjustLr::MatchRmsAdamW,
            ),
        }),
        Optimizer::ScheduleFree => Rule::ScheduleFree,
        _ => Rule::AdamW,
    };
    (word, OptimizerConfig { rule, adamw })
}

/// Returns Adafactor with the defaults of transformers' Trainer.
fn adafactor(said: &Training, filled: &mut Filled) -> Adafactor {
    Adafactor {
        beta1: filled.optional("training.beta1", said.beta1.as_ref(), |beta1| json!(beta1)),
        decay_rate: filled.plain("training.decay_rate", said.decay_rate.as_ref(), -0.8),
        clip_threshold: filled.plain("training.clip_threshold", said.clip_threshold.as_ref(), 1.0),
        scale_parameter: filled.plain(
            "training.scale_parameter",
            said.scale_parameter.as_ref(),
            false,
        ),
        relative_step: filled.plain("training.relative_step", said.relative_step.as_ref(), false),
        warmup_init: filled.plain("training.warmup_init", said.warmup_init.as_ref(), false),
    }
}

/// Returns the learning rates.
pub(super) fn course(
    said: &Training,
    rule: Rule,
    kind: ObjectiveType,
    filled: &mut Filled,
) -> Rates {
    if matches!(rule, Rule::Adafactor(adafactor) if adafactor.relative_step) {
        return Rates {
            peak: 1e-2,
            course: RateCourse::Constant,
            warmup: Warmup::Steps(0),
        };
    }
    let is_plain = matches!(
        kind,
        ObjectiveType::Sft | ObjectiveType::Distill | ObjectiveType::Embedding
    );
    let usual = if is_plain || kind.has_score_head() {
        LEARNING_RATE
    } else {
        OF_PREFERENCES
    };
    let peak = filled.plain("training.learning_rate", said.learning_rate.as_ref(), usual);
    let usual = if rule.averages() {
        Scheduler::Constant
    } else {
        Scheduler::Cosine
    };
    let scheduler = filled.word("training.lr_scheduler", said.lr_scheduler.as_ref(), usual);
    let warmup = match &said.warmup_ratio {
        Some(ratio) => Warmup::Ratio(filled.plain("training.warmup_ratio", Some(ratio), 0.0)),
        None => Warmup::Steps(filled.plain("training.warmup_steps", said.warmup_steps.as_ref(), 0)),
    };
    let course = if rule.averages() {
        RateCourse::ScheduleFree
    } else {
        of_scheduler(scheduler, peak, said, filled)
    };
    Rates {
        peak,
        course,
        warmup,
    }
}

fn of_scheduler(
    scheduler: Scheduler,
    peak: f64,
    said: &Training,
    filled: &mut Filled,
) -> RateCourse {
    match scheduler {
        Scheduler::Constant => RateCourse::Constant,
        Scheduler::Linear => RateCourse::Linear,
        Scheduler::Cosine => RateCourse::Cosine {
            num_cycles: cycles(said, filled, 0.5),
            min: 0.0,
        },
        Scheduler::CosineWithMinLr => RateCourse::Cosine {
            num_cycles: cycles(said, filled, 0.5),
            min: lowest(said, peak, filled),
        },
        Scheduler::CosineWarmupWithMinLr => RateCourse::CosineAhead {
            num_cycles: cycles(said, filled, 0.5),
            min: lowest(said, peak, filled),
            warmup_start: filled.optional(
                "training.warmup_lr_rate",
                said.warmup_lr_rate.as_ref(),
                |rate| json!(rate),
            ),
        },
        Scheduler::CosineWithRestarts => RateCourse::CosineWithRestarts {
            num_cycles: cycles(said, filled, 1.0),
        },
        Scheduler::Polynomial => RateCourse::Polynomial {
            power: filled.plain("training.power", said.power.as_ref(), 1.0),
            end: filled.plain("training.lr_end", said.lr_end.as_ref(), 1e-7) / peak,
        },
        Scheduler::InverseSqrt => RateCourse::InverseSqrt {
            timescale: filled
                .optional("training.timescale", said.timescale.as_ref(), |steps| {
                    json!(steps)
                })
                .map(|steps| steps as f64),
        },
        Scheduler::WarmupStableDecay => RateCourse::WarmupStableDecay(stages(said, filled)),
    }
}

fn cycles(said: &Training, filled: &mut Filled, default: f64) -> f64 {
    filled.plain("training.num_cycles", said.num_cycles.as_ref(), default)
}

/// Returns the lowest rate as a share of the peak.
fn lowest(said: &Training, peak: f64, filled: &mut Filled) -> f64 {
    match &said.min_lr {
        Some(rate) => filled.plain("training.min_lr", Some(rate), 0.0) / peak,
        None => filled.plain("training.min_lr_rate", said.min_lr_rate.as_ref(), 0.0),
    }
}

fn stages(said: &Training, filled: &mut Filled) -> WarmupStableDecay {
    let mut steps = |key: &str, said| {
        filled
            .optional(key, said, |steps: &usize| json!(steps))
            .map(|steps| steps as u64)
    };
    let num_decay_steps = steps("training.num_decay_steps", said.num_decay_steps.as_ref());
    let num_stable_steps = steps("training.num_stable_steps", said.num_stable_steps.as_ref());
    WarmupStableDecay {
        num_decay_steps,
        num_stable_steps,
        warmup_type: filled.word(
            "training.warmup_type",
            said.warmup_type.as_ref(),
            Curve::Linear,
        ),
        decay_type: filled.word(
            "training.decay_type",
            said.decay_type.as_ref(),
            Curve::Cosine,
        ),
        min: filled.plain("training.min_lr_ratio", said.min_lr_ratio.as_ref(), 0.0),
        num_cycles: cycles(said, filled, 0.5),
    }
}

/// Checks that a schedule falls: its lowest rate must be below its peak.
pub(super) fn check_lowest(recipe: &Recipe, peak: f64, faults: &mut Vec<Fault>) {
    let said = &recipe.training;
    let is = |scheduler| {
        said.lr_scheduler
            .as_ref()
            .is_some_and(|said| said.value == scheduler)
    };
    let lowest = said
        .min_lr
        .as_ref()
        .filter(|rate| rate.value > peak)
        .map(|rate| ("min_lr", rate));
    let last = said
        .lr_end
        .as_ref()
        .filter(|rate| rate.value >= peak)
        .map(|rate| ("lr_end", rate));
    for (key, rate) in [lowest, last].into_iter().flatten() {
        let message = format!(
            "training.{key} is {}, the learning rate begins at {peak}",
            rate.value
        );
        let hint = format!("set `{key}` below `learning_rate`: it is a rate, not a share of it");
        faults.push(Fault::new(message).at(&rate.place).hint(hint));
    }
    // The default of `lr_end` may be above a learning rate that was said.
    if let Some(rate) = said
        .learning_rate
        .as_ref()
        .filter(|rate| is(Scheduler::Polynomial) && said.lr_end.is_none() && rate.value <= 1e-7)
    {
        let message = format!(
            "training.learning_rate is {}, `lr_scheduler: polynomial` ends at 1e-7",
            rate.value
        );
        faults.push(
            Fault::new(message)
                .at(&rate.place)
                .hint("set `lr_end` below it"),
        );
    }
}
