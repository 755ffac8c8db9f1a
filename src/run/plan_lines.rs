//! A plan in lines: the model, its rows, tokens and steps.

use crate::adapter::ScoreConfig;
use crate::data::{Packing, RowCounts};
use crate::plan::{MemoryPlan, Plan, RunData};
use crate::report::grouped;
use crate::terms::ProblemType;
use crate::train::{self, StepSampler};

/// Names of classes that a line shows.
const SHOWN_NAMES: usize = 12;

/// Describes what follows from the values and the data, each line with its heading.
pub fn plan_lines(
    plan: &Plan,
    data: &RunData,
    (config, memory): (&train::TrainConfig, &MemoryPlan),
) -> Vec<(&'static str, String)> {
    let (total, spec) = (data.ledger().total(), &plan.model.spec);
    let (tokens, trained) = data.training_tokens();
    let parameters = spec.parameters() as u64;
    let trainable = plan.trainable_parameters as u64;
    let share = 100.0 * trainable as f64 / parameters as f64;
    let rows = data.training();
    let course = StepSampler::new(config, &rows);
    let of_epoch = if config.packing == Packing::Off {
        "an epoch"
    } else {
        "in the first epoch"
    };
    let before = [
        (
            "model",
            format!("{}, {} parameters", spec.describe(), grouped(parameters)),
        ),
        ("base kept in", memory.storage().to_string()),
        (
            "trainable parameters",
            format!("{} ({share:.2} % of the base)", grouped(trainable)),
        ),
        ("device", plan.device_words()),
        (
            "rows read",
            format!(
                "{}, {}{} too long, {} cut, {} without a trained token, {}{} broken, {} \
                duplicates{}",
                grouped(total.rows),
                if total.not_selected > 0 {
                    format!("{} not selected, ", grouped(total.not_selected))
                } else {
                    String::new()
                },
                total.too_long,
                total.truncated,
                total.untrained,
                if total.equal_halves > 0 {
                    format!("{} with equal halves, ", grouped(total.equal_halves))
                } else {
                    String::new()
                },
                total.broken,
                total.duplicates,
                alike(&total)
            ),
        ),
        ("rows to train on", grouped(data.training_rows() as u64)),
        (
            "rows to validate on",
            grouped(data.validation_rows() as u64),
        ),
        (
            "tokens an epoch",
            format!(
                "{}, {} {}",
                grouped(tokens),
                grouped(trained),
                if plan.scoring().is_some() {
                    "scored"
                } else {
                    "trained"
                }
            ),
        ),
    ];
    let score = plan
        .score_head()
        .map(|score| ("score head", described(score)));
    let mixed = data
        .shares()
        .into_iter()
        .map(|share| ("mixed", share.describe()));
    let after = [
        (
            "steps",
            format!(
                "{} ({} {of_epoch})",
                grouped(config.schedule.total_steps),
                grouped(course.steps_of(0))
            ),
        ),
        ("output", plan.output_dir.display().to_string()),
    ];
    before
        .into_iter()
        .chain(score)
        .chain(mixed)
        .chain(packed(config, &course, tokens))
        .chain(after)
        .collect()
}

/// Describes a score head.
fn described(score: &ScoreConfig) -> String {
    let unit = match score.problem {
        None | Some(ProblemType::Regression) => "number",
        Some(ProblemType::MultiLabel) => "label",
        Some(ProblemType::SingleLabel | ProblemType::Token) => "class",
    };
    let plural = match (score.labels, unit) {
        (1, _) => "",
        (_, "class") => "es",
        _ => "s",
    };
    let of = if score.is_of_tokens { "word" } else { "text" };
    let names: Vec<String> = score.names.iter().take(SHOWN_NAMES).cloned().collect();
    let more = if score.names.len() > SHOWN_NAMES {
        ", .."
    } else {
        ""
    };
    let names = if names.is_empty() {
        String::new()
    } else {
        format!(": {}{more}", names.join(", "))
    };
    format!("{} {unit}{plural} a {of}{names}", score.labels)
}

/// Describes the rows that are left out as duplicates, if any.
fn alike(total: &RowCounts) -> String {
    if total.alike() == 0 {
        return String::new();
    }
    let RowCounts {
        exact_duplicates,
        near_duplicates,
        near_held_out,
        ..
    } = total;
    format!(
        "; left out: {exact_duplicates} equal, {near_duplicates} nearly equal, {near_held_out} \
        nearly a scored row"
    )
}

/// Describes the packed sequences, if there are any.
fn packed(
    config: &train::TrainConfig,
    course: &StepSampler,
    tokens: u64,
) -> Option<(&'static str, String)> {
    let Packing::BestFit { tokens: room } = config.packing else {
        return None;
    };
    let packs = course.packs(0).len();
    let empty = 100.0 * (1.0 - tokens as f64 / (packs * room) as f64);
    let (packs, a_step) = (grouped(packs as u64), course.packs_per_step());
    Some((
        "packed rows",
        format!("{packs} of {room} tokens in the first epoch, {a_step} a step, {empty:.1} % empty"),
    ))
}
