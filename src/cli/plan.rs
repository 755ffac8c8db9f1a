//! `rankine plan`: every value with its origin, the model in words, rows, tokens and steps.

use clap::Args;

use super::consumers::ConsumerArgs;
use super::{Failure, RecipeArgs, grouped, print};
use crate::plan::{Plan, RunData};
use crate::report::Terminal;
use crate::train;

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
    vec![
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
        (
            "steps",
            format!(
                "{} ({} an epoch)",
                grouped(config.schedule.total_steps),
                grouped(config.steps_per_epoch(data.training_rows()))
            ),
        ),
        ("output", plan.output_dir.display().to_string()),
    ]
}
