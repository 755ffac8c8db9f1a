//! `rankine eval`: loss and perplexity of the base and of the trained model, for each set of rows,
//! and forgetting on other text.

use std::path::PathBuf;

use clap::Args;

use super::eval_table::{print_head_scores, print_ranks, print_table};
use super::{Failure, RecipeArgs, print};
use crate::fault::{Exit, Fault};
use crate::report::Terminal;
use crate::run::{self, Artifact, GENERAL, ScoreOptions, Subject, find_adapter};

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// The folder of a run, of a checkpoint or of a run's adapter, or a recipe
    #[arg(value_name = "RUN|RECIPE")]
    subject: PathBuf,
    /// Values to change in a recipe
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// An adapter: its folder, that of a run or a checkpoint, or a Hub id that was pulled; without
    /// it that of the run, or of the recipe's `adapter.init_from`
    #[arg(long, value_name = "DIR|ID")]
    adapter: Option<PathBuf>,
    /// Of a run: the folder of its base, or a Hub id that was pulled, where it is not beside the
    /// run
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Score on this file, in the form of the recipe's first dataset, in place of the validation
    /// rows. Of a run, a folder that holds its own data, by their hashes: they are read there
    #[arg(long, value_name = "FILE|DIR")]
    data: Option<PathBuf>,
    /// Score on general text too, rows of a column `text`
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = GENERAL
    )]
    forgetting: Option<PathBuf>,
    /// Use a GPU even if its self-check failed
    #[arg(long)]
    force: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn eval(args: &EvalArgs, terminal: &Terminal) -> Result<(), Failure> {
    let report = |event| terminal.take(&event);
    let subject = if args.subject.is_dir() {
        if let Some(word) = args.overrides.first() {
            let fault = Fault::new(format!("`{word}`: values of a run cannot be changed"));
            return Err(Failure::new(
                Exit::Usage,
                fault.hint("evaluate the recipe, and name the adapter with `--adapter`"),
            ));
        }
        let options = ScoreOptions {
            adapter: args.adapter.clone(),
            base: args.base.clone(),
            data: args.data.clone(),
            forgetting: args.forgetting.clone(),
        };
        Subject::of_run(&args.subject, &options, &report)?
    } else {
        of_recipe(args)?
    };
    if run::is_embedder(&subject) {
        let ranks = run::rank(&subject, &report)?;
        return if args.json {
            print(ranks.object)
        } else {
            print_ranks(&ranks)
        };
    }
    if subject.plan.scoring().is_some() {
        let scores = run::score_head(&subject, &report)?;
        terminal.stop();
        return if args.json {
            print(scores.object)
        } else {
            print_head_scores(&scores)
        };
    }
    let scores = run::score(&subject, &report)?;
    if args.json {
        return print(scores.object);
    }
    print_table(&scores)
}

/// Returns the adapter that a recipe continues from, or the one that was named, on its base.
fn of_recipe(args: &EvalArgs) -> Result<Subject, Failure> {
    if args.base.is_some() {
        let fault = Fault::new("--base: a recipe names its base itself");
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("write `base_model=DIR` after the recipe"),
        ));
    }
    let recipe = RecipeArgs {
        recipe: args.subject.clone(),
        overrides: args.overrides.clone(),
        force: args.force,
    };
    let plan = recipe.plan()?;
    let named = args.adapter.as_deref().map(find_adapter).transpose()?;
    let adapter = named.or_else(|| plan.init_from.clone());
    Ok(Subject {
        plan,
        trained: adapter.map(Artifact::Adapter),
        data: args.data.clone(),
        forgetting: args.forgetting.clone(),
        run: None,
    })
}
