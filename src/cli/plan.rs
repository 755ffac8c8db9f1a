//! `rankine plan`: every value with its origin, the model in words, rows, tokens, steps, memory and
//! time.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::HumanDuration;
use serde_json::{Value, json};

use super::consumers::ConsumerArgs;
use super::{Failure, RecipeArgs, memory_table, print};
use crate::device;
use crate::fault::{Exit, Fault};
use crate::plan::{MemoryPlan, Plan, RunData, Share};
use crate::report::{Reporter, Step, Terminal};
use crate::run::{self, plan_lines};
use crate::train::{self, StepSampler};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    recipe: Option<RecipeArgs>,
    #[command(flatten)]
    consumers: ConsumerArgs,
    /// Take one step on the base's weights to tell how long the run takes; nothing is kept of it
    #[arg(long, conflicts_with = "fits")]
    trial: bool,
    /// Without a recipe: what fits into memories of usual sizes, for the model of a config.json; of
    /// several, what each needs
    #[arg(long, value_name = "CONFIG.json", num_args = 1.., conflicts_with = "recipe")]
    fits: Vec<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let recipe = match (&args.fits[..], &args.recipe) {
        ([config], _) => return memory_table::print_table(config, args.json),
        ([_, ..], _) => return memory_table::print_needs(&args.fits, args.json),
        ([], Some(recipe)) => recipe,
        ([], None) => return Err(Failure::new(Exit::Usage, Fault::new("expected a recipe"))),
    };
    let plan = recipe.plan()?;
    plan.check_trains()?;
    device::set_threads(plan.threads);
    let terminal = Terminal::default();
    let data = plan.read_data(&|event| terminal.take(&event))?;
    terminal.stop();
    let (config, memory) = plan.prepare(&data);
    let trial = if args.trial {
        memory.check()?;
        Some(trial(&plan, &data, (&config, &memory), &|event| {
            terminal.take(&event);
        })?)
    } else {
        None
    };
    terminal.stop();
    if args.json {
        print(object(&plan, &data, &config, &memory, trial.as_ref()))?;
    } else {
        print_settings(&plan)?;
        print("")?;
        for (what, value) in plan_lines(&plan, &data, (&config, &memory))
            .into_iter()
            .chain(memory.lines())
        {
            print(format_args!("{what:<22} {value}"))?;
        }
        if let Some(step) = &trial {
            let (speed, time) = (
                step.tokens_per_second,
                duration(seconds(step, &data, &config)),
            );
            print(format_args!(
                "{:<22} {speed:.1} tokens a second, {time} for all steps",
                "trial step"
            ))?;
        }
    }
    args.consumers.judge_plan(&terminal, &plan)?;
    if !memory.fits() {
        terminal.say(
            "note: `rankine train` refuses this recipe, because it needs more memory than it may \
            have",
        );
    }
    Ok(())
}

/// Takes the first step of the run.
fn trial(
    plan: &Plan,
    data: &RunData,
    (config, memory): (&train::TrainConfig, &MemoryPlan),
    report: Reporter,
) -> Result<Step, Failure> {
    let mut decoder =
        plan.load_model(memory.storage(), &device::open(plan.device)?, None, report)?;
    let teacher = run::load_teacher(plan, report)?;
    let rows = train::Data {
        teacher: teacher.as_ref(),
        ..data.rows()
    };
    Ok(train::first_step(&mut decoder, &rows, config))
}

/// Returns the seconds of a run whose every step takes as long.
fn seconds(step: &Step, data: &RunData, config: &train::TrainConfig) -> f64 {
    let epochs = config.schedule.total_steps as f64
        / StepSampler::new(config, &data.training()).steps_of(0) as f64;
    epochs * data.training_tokens().0 as f64 / step.tokens_per_second
}

fn duration(seconds: f64) -> String {
    format!(
        "about {}",
        HumanDuration(Duration::from_secs_f64(seconds.clamp(1.0, 1e12)))
    )
}

fn object(
    plan: &Plan,
    data: &RunData,
    config: &train::TrainConfig,
    memory: &MemoryPlan,
    trial: Option<&Step>,
) -> Value {
    let setting = |setting: &crate::plan::Setting| {
        let origin = setting.origin.to_string();
        json!({"key": setting.key, "value": setting.value, "origin": origin})
    };
    let ((tokens, trained), total) = (data.training_tokens(), data.ledger().total());
    json!({
        "settings": plan.settings.iter().map(setting).collect::<Vec<_>>(),
        "parameters": plan.model.spec.parameters(),
        "trainable_parameters": plan.trainable_parameters,
        "device": plan.device.to_string(),
        "training_rows": data.training_rows(),
        "validation_rows": data.validation_rows(),
        "validation_rows_trained_on": data.trained_validation_rows(),
        "training_rows_near_validation": data.near_validation_rows(),
        "left_out_as_duplicates": total.exact_duplicates + total.near_duplicates,
        "left_out_near_held_out": total.near_held_out,
        "rows_per_epoch": data.training().per_epoch(),
        "mixing": data.shares().iter().map(Share::object).collect::<Vec<_>>(),
        "tokens_per_epoch": tokens,
        "trained_tokens_per_epoch": trained,
        "steps": config.schedule.total_steps,
        "steps_per_epoch": StepSampler::new(config, &data.training()).steps_of(0),
        "output_dir": plan.output_dir.display().to_string(),
        "memory": {
            "peak_bytes": memory.parts.peak_bytes(),
            "allowed_bytes": memory.allowed.map(|allowed| allowed.bytes),
            "fits": memory.fits(),
            "highest": memory.parts.highest(),
            "recomputed_blocks": memory.chosen.recomputed,
            "blocks": plan.model.spec.layers.len(),
            "offloads_embedding": memory.storage().offloads_embedding,
            "offload_reason": memory.offload_reason(),
            "parts": memory.parts,
        },
        "trial": trial.map(|step| json!({
            "tokens_per_second": step.tokens_per_second,
            "peak_memory_bytes": step.peak_memory_bytes,
            "device_peak_memory_bytes": step.device_peak_memory_bytes,
            "seconds_of_all_steps": seconds(step, data, config),
        })),
    })
}

fn print_settings(plan: &Plan) -> Result<(), Failure> {
    let width = plan
        .settings
        .iter()
        .map(|setting| setting.key.len())
        .max()
        .unwrap_or(0);
    for setting in &plan.settings {
        let value = setting
            .value
            .as_str()
            .map_or_else(|| setting.value.to_string(), str::to_owned);
        print(format_args!(
            "{:<width$}  {value}  ({})",
            setting.key, setting.origin
        ))?;
    }
    Ok(())
}
