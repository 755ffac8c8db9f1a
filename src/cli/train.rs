//! `rankine train`: trains an adapter or a model from a recipe.

use std::time::SystemTime;

use clap::Args;

use super::run_folder::ClaimedRunFolder;
use super::session::Session;
use super::signals::Signals;
use super::{Failure, RecipeArgs, with_base};
use crate::device;
use crate::fault::shell_word;
use crate::plan::{Inputs, Lock};
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Remove the run that the output folder holds
    #[arg(long)]
    overwrite: bool,
    /// Do not check gradients on a GPU against the CPU before the first training there
    #[arg(long)]
    skip_proof: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn train(args: &TrainArgs, terminal: &Terminal) -> Result<(), Failure> {
    let (fetched, leaving) = args.recipe.fetch(terminal)?;
    let since = SystemTime::now();
    let plan = with_base(args.recipe.resolve_on(fetched)?)?;
    plan.check_trains()?;
    let command = command(args, &[]);
    let again = self::command(args, &["output_dir", "adapter.init_from"]);
    let room = ClaimedRunFolder::find(&plan, args.overwrite, &command)?;
    let signals = Signals::listen(&plan.output_dir)?;
    signals.leaves(room.traces(false));
    drop(leaving);
    let threads = device::set_threads(plan.threads);
    let inputs = Inputs::of(&plan, since)?;
    // Hashing continues while rows are tokenized and the base is loaded.
    let hashing = inputs.hash();
    let session = Session {
        plan: &plan,
        inputs,
        signals: &signals,
        terminal,
        room: &room,
        checkpoint: None,
        force: args.recipe.force,
        skip_proof: args.skip_proof,
        json: args.json,
        command: Some(&command),
        again: &again,
    };
    session.run(|| Ok(Lock::new(&plan, &command, threads, hashing.finish()?)))
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
