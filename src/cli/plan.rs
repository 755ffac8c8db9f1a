//! `rankine plan`: every value with its origin, the model in words, rows, tokens and steps.

use super::{Failure, RecipeArgs, grouped};
use crate::plan::{Origin, Plan, RunData};
use crate::report::Terminal;
use crate::train;

pub(super) fn plan(args: &RecipeArgs) -> Result<(), Failure> {
    let plan = args.plan()?;
    let terminal = Terminal::default();
    let data = plan.read_data(&|event| terminal.take(&event))?;
    terminal.stop();
    print_settings(&plan);
    println!();
    for (what, value) in facts(&plan, &data, &plan.train_config(&data)) {
        println!("{what:<22} {value}");
    }
    Ok(())
}

fn print_settings(plan: &Plan) {
    let width = plan.settings.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
    for setting in &plan.settings {
        let value = setting.value.as_str().map_or_else(|| setting.value.to_string(), str::to_owned);
        let origin = if setting.origin == Origin::Default { String::new() } else { format!("  ({})", setting.origin) };
        println!("{:<width$}  {value}{}", setting.key, if origin.is_empty() { "  (default)".to_owned() } else { origin });
    }
}

/// What follows from the values and the data.
pub(super) fn facts(plan: &Plan, data: &RunData, config: &train::Config) -> Vec<(&'static str, String)> {
    let (total, spec) = (data.ledger().total(), &plan.model.spec);
    let (tokens, trained) = data.training_tokens();
    let parameters = spec.parameters() as u64;
    let trainable = plan.trainable_parameters() as u64;
    let share = 100.0 * trainable as f64 / parameters as f64;
    vec![
        ("model", format!("{}, {} parameters", spec.describe(), grouped(parameters))),
        ("trainable parameters", format!("{} ({share:.2} % of the base)", grouped(trainable))),
        ("device", plan.device.to_string()),
        (
            "rows read",
            format!(
                "{}, {} too long, {} cut, {} without a trained token",
                grouped(total.rows),
                total.too_long,
                total.truncated,
                total.untrained
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
