//! `rankine train`: trains an adapter or a model from a recipe.

use clap::Args;

use super::leaving::Leaving;
use super::next::print_next;
use super::result::print_result;
use super::{Failure, RecipeArgs};
use crate::fault::shell_word;
use crate::report::Terminal;
use crate::run::{self, DeviceCheck, Signals, TrainOptions};

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Remove the run that the output folder holds
    #[arg(long)]
    overwrite: bool,
    /// Skip the GPU self-check before the first training on a GPU
    #[arg(long)]
    skip_proof: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn train(args: &TrainArgs, terminal: &Terminal) -> Result<(), Failure> {
    let report = |event| terminal.take(&event);
    let recipe = args.recipe.read()?;
    let leaving = run::is_of_hub(&recipe).then(Leaving::listen).transpose()?;
    let plan = run::plan(recipe, &report)?;
    let signals = Signals::listen(&plan.output_dir)?;
    drop(leaving);
    let options = TrainOptions {
        overwrite: args.overwrite,
        device_check: DeviceCheck {
            force: args.recipe.force,
            skip: args.skip_proof,
        },
        command: Some(command(args, &[])),
    };
    let finished = run::train(plan, options, &signals, &report)?;
    print_result(&finished.plan.output_dir, &finished.result, args.json)?;
    if args.json {
        return Ok(());
    }
    let again = command(args, &["output_dir", "adapter.init_from"]);
    print_next(&finished.plan, Some(&again))
}

/// Returns the command as given, to be pasted into a shell, without overrides of these keys.
fn command(args: &TrainArgs, without: &[&str]) -> String {
    let RecipeArgs {
        recipe,
        overrides,
        force,
    } = &args.recipe;
    let force = if *force { " --force" } else { "" };
    let skip_proof = if args.skip_proof { " --skip-proof" } else { "" };
    let is_kept = |word: &&String| {
        word.split_once('=')
            .is_none_or(|(key, _)| !without.contains(&key.trim()))
    };
    let overrides: String = overrides
        .iter()
        .filter(is_kept)
        .map(|word| format!(" {}", shell_word(word)))
        .collect();
    format!(
        "rankine train {}{overrides}{force}{skip_proof}",
        shell_word(&recipe.display().to_string())
    )
}
