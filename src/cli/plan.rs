//! `rankine plan`: every value with its origin, the model in words, rows, tokens and steps.

use clap::Args;

use super::consumers::ConsumerArgs;
use super::{Failure, RecipeArgs, grouped, print};
use crate::data::Packing;
use crate::plan::{Plan, RunData};
use crate::report::Terminal;
use crate::train::{self, Course};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    consumers: ConsumerArgs,
}

pub(super) fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let plan = args.recipe.plan()?;
    crate::device::set_threads(plan.threads);
    let terminal = Terminal::default();
    let data = plan.read_data(&|event| terminal.take(&event))?;
    terminal.stop();
    print_settings(&plan)?;
    print("")?;
    for (what, value) in facts(&plan, &data, &plan.train_config(&data)) {
        print(format_args!("{what:<22} {value}"))?;
    }
    args.consumers.judge_plan(&terminal, &plan)
}

fn print_settings(plan: &Plan) -> Result<(), Failure> {
    let width = plan.settings.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
    for setting in &plan.settings {
        let value = setting.value.as_str().map_or_else(|| setting.value.to_string(), str::to_owned);
        print(format_args!("{:<width$}  {value}  ({})", setting.key, setting.origin))?;
    }
    Ok(())
}

/// What follows from the values and the data.
pub(super) fn facts(plan: &Plan, data: &RunData, config: &train::Config) -> Vec<(&'static str, String)> {
    let (total, spec) = (data.ledger().total(), &plan.model.spec);
    let (tokens, trained) = data.training_tokens();
    let parameters = spec.parameters() as u64;
    let trainable = plan.trainable_parameters as u64;
    let share = 100.0 * trainable as f64 / parameters as f64;
    let rows = data.training();
    let course = Course::new(config, &rows);
    let of_epoch = if config.packing == Packing::Off { "an epoch" } else { "in the first epoch" };
    let before = [
        ("model", format!("{}, {} parameters", spec.describe(), grouped(parameters))),
        ("trainable parameters", format!("{} ({share:.2} % of the base)", grouped(trainable))),
        ("device", plan.device.to_string()),
        (
            "rows read",
            format!(
                "{}, {} too long, {} cut, {} without a trained token, {} broken, {} duplicates",
                grouped(total.rows),
                total.too_long,
                total.truncated,
                total.untrained,
                total.broken,
                total.duplicates
            ),
        ),
        ("rows to train on", grouped(data.training_rows() as u64)),
        ("rows to validate on", grouped(data.validation_rows() as u64)),
        ("tokens an epoch", format!("{}, {} trained", grouped(tokens), grouped(trained))),
    ];
    let after = [
        ("steps", format!("{} ({} {of_epoch})", grouped(config.schedule.total_steps), grouped(course.steps_of(0)))),
        ("output", plan.output_dir.display().to_string()),
    ];
    before.into_iter().chain(packed(config, &course, tokens)).chain(after).collect()
}

/// What packing comes to, where there is any.
fn packed(config: &train::Config, course: &Course, tokens: u64) -> Option<(&'static str, String)> {
    let Packing::BestFit { tokens: room } = config.packing else { return None };
    let packs = course.packs(0).len();
    let empty = 100.0 * (1.0 - tokens as f64 / (packs * room) as f64);
    let (packs, a_step) = (grouped(packs as u64), course.packs_per_step());
    Some(("packed rows", format!("{packs} of {room} tokens in the first epoch, {a_step} a step, {empty:.1} % empty")))
}
