//! `rankine train`: from a recipe to an adapter.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::HumanDuration;
use serde_json::json;

use super::room::Room;
use super::{Failure, RecipeArgs, plan::facts, print};
use crate::export::{Card, card};
use crate::plan::{Origin, Plan, RunData, lock};
use crate::report::{Metrics, Terminal, peak_memory_bytes};
use crate::train::{self, RunFolder, State};
use crate::{device, files};

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Remove the run that the output folder holds
    #[arg(long)]
    overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn train(args: &TrainArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let plan = args.recipe.plan()?;
    let room = Room::find(&plan, args.overwrite, &command(args))?;
    let threads = device::set_threads(plan.threads);
    let device = device::open(plan.device, args.recipe.force)?;
    let terminal = Terminal::default();

    let hashing = lock::start(&plan)?;
    let data = plan.read_data(&|event| terminal.take(&event))?;
    let config = plan.train_config(&data);
    announce(&terminal, &plan, &data, &config, &device);
    let mut decoder = plan.load_model(&device, &|event| terminal.take(&event))?;

    room.clear()?;
    lock::write(&plan, threads, hashing)?;
    let metrics = Metrics::create(&plan.output_dir.join(RunFolder::METRICS))?;
    let folder = RunFolder { path: plan.output_dir.clone(), adapter: plan.adapter.clone(), base: plan.portable_base_name() };
    terminal.start(config.schedule.total_steps);
    let outcome = train::run(&mut decoder, &data.rows(), &config, &folder, &|event| {
        metrics.take(&event);
        terminal.take(&event);
    });
    terminal.stop();
    metrics.finish()?;
    let state = outcome?;

    files::write_atomic(&plan.output_dir.join(RunFolder::CARD), card(&facts_of(&plan, &data, &state)).as_bytes())?;
    for remark in remarks(&state, &config) {
        terminal.say(&format!("note: {remark}"));
    }
    print_result(args, &plan, &state, started.elapsed())
}

/// What a person should know of how the run went.
fn remarks(state: &State, config: &train::Config) -> Vec<String> {
    let (skipped, last) = (state.step - state.updates, config.schedule.total_steps);
    let without = state.evaluations_without_improvement;
    let early = || format!("stopped at step {} of {last}: {without} evaluations without a lower loss", state.step);
    let worse =
        |(first, best)| format!("the base scores {first:.4} without the adapter and {best:.4} with it, which is no better");
    let scores = state.eval_loss_first.zip(state.eval_loss_best).filter(|(first, best)| best >= first);
    let skips =
        (skipped > 0).then(|| format!("{skipped} of {} steps were skipped: their loss or gradients were not finite", state.step));
    [(state.step < last).then(early), scores.map(worse), skips].into_iter().flatten().collect()
}

/// The command that was given, to be pasted.
fn command(args: &TrainArgs) -> String {
    let RecipeArgs { recipe, overrides, force } = &args.recipe;
    let force = if *force { " --force" } else { "" };
    let overrides: String = overrides.iter().map(|word| format!(" {}", quoted(word))).collect();
    format!("rankine train {}{overrides}{force}", quoted(&recipe.display().to_string()))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Says what will happen and about how long.
fn announce(terminal: &Terminal, plan: &Plan, data: &RunData, config: &train::Config, device: &burn::tensor::Device) {
    for (what, value) in facts(plan, data, config) {
        terminal.say(&format!("{what:<22} {value}"));
    }
    if config.schedule.warmup_steps >= config.schedule.total_steps {
        let (warmup, total) = (config.schedule.warmup_steps, config.schedule.total_steps);
        terminal.say(&format!("note: the warm-up takes {warmup} of {total} steps, so the learning rate never reaches its peak"));
    }
    let seconds = plan.training_flops(data, config) / (device::product_flops_per_second(device) * EFFICIENCY);
    terminal.say(&format!("{:<22} about {}", "time", HumanDuration(Duration::from_secs_f64(seconds.max(1.0)))));
}

/// Share of the speed of a bare product that a training step reaches; see LOG.md.
const EFFICIENCY: f64 = 0.3;

fn facts_of(plan: &Plan, data: &RunData, state: &State) -> Card {
    let files = plan.sources.iter().flat_map(|source| &source.files).map(|file| file.display().to_string());
    let targets = plan
        .setting("adapter.target_modules")
        .map_or_else(|| "as `init_from`".to_owned(), |targets| targets.to_string().replace('"', ""));
    Card {
        base: plan.portable_base_name(),
        model: plan.model.spec.describe(),
        files: files.collect(),
        adapter: format!("r {}, alpha {}, targets {targets}", plan.adapter.rank, plan.adapter.alpha),
        trainable_parameters: plan.trainable_parameters,
        rows: data.training_rows(),
        steps: state.step,
        tokens: state.tokens,
        eval_loss: state.eval_loss_first.zip(state.eval_loss_best),
        best_step: state.best_step.unwrap_or(state.step),
    }
}

fn print_result(args: &TrainArgs, plan: &Plan, state: &State, elapsed: Duration) -> Result<(), Failure> {
    let run = plan.output_dir.display().to_string();
    if args.json {
        let object = json!({
            "run": run,
            "steps": state.step,
            "loss": state.loss,
            "eval_loss_first": state.eval_loss_first,
            "eval_loss_best": state.eval_loss_best,
            "best_step": state.best_step,
            "tokens": state.tokens,
            "seconds": elapsed.as_secs_f64(),
            "peak_memory_bytes": peak_memory_bytes(),
        });
        return print(object);
    }
    if let (Some(first), Some(best), Some(step)) = (state.eval_loss_first, state.eval_loss_best, state.best_step) {
        print(format_args!("validation loss {first:.4} -> {best:.4} at step {step} ({:+.1} %)", 100.0 * (best / first - 1.0)))?;
    }
    let at = |name: &str| plan.output_dir.join(name).display().to_string();
    print(format_args!("adapter     {}", at(RunFolder::ADAPTER)))?;
    print(format_args!("metrics     {}", at(RunFolder::METRICS)))?;
    print(format_args!("what it is  {}", at(RunFolder::CARD)))?;
    print(format_args!("next: load it in PEFT as {} shows, or train on with", at(RunFolder::CARD)))?;
    let mut beside = plan.output_dir.file_name().unwrap_or_default().to_owned();
    beside.push("-2");
    let beside = plan.output_dir.with_file_name(beside);
    let init_from = quoted(&format!("adapter.init_from={}", at(RunFolder::ADAPTER)));
    let output_dir = quoted(&format!("output_dir={}", beside.display()));
    print(format_args!("  {}{} {init_from} {output_dir}", command(args), without_shape(plan)))
}

/// Overrides that leave to `init_from` what the recipe says of the adapter's shape.
fn without_shape(plan: &Plan) -> String {
    let is_kept = |key: &str| ["adapter.method", "adapter.dropout", "adapter.init_from"].contains(&key);
    let said = plan.settings.iter().filter(|setting| matches!(setting.origin, Origin::Said(_)) && !is_kept(&setting.key));
    let of_adapter = said.filter_map(|setting| setting.key.strip_prefix("adapter.")?.split('.').next());
    of_adapter.collect::<BTreeSet<_>>().into_iter().map(|key| format!(" adapter.{key}=")).collect()
}
