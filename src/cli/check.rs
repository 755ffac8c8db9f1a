//! `rankine check`: all faults at once, or one line that there are none.

use clap::Args;

use super::consumers::ConsumerArgs;
use super::{Failure, RecipeArgs, print};
use crate::fault::shell_word;
use crate::plan::{Plan, Resolved};
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    consumers: ConsumerArgs,
}

pub(super) fn check(CheckArgs { recipe: args, consumers }: &CheckArgs) -> Result<(), Failure> {
    let recipe = args.recipe.display();
    let terminal = Terminal::default();
    match args.resolve()? {
        Resolved::Plan(plan) => {
            plan.check_trains()?;
            let of_likeness = plan.notes_of_likeness(&|event| terminal.take(&event))?;
            terminal.stop();
            for note in plan.notes().into_iter().chain(of_likeness) {
                terminal.say(&format!("note: {note}"));
            }
            consumers.judge_plan(&terminal, &plan)?;
            judge_memory(&plan, &terminal)?;
            print(format_args!("{recipe}: no faults"))?;
        }
        Resolved::Hub { id, .. } => {
            let unchecked = if consumers.is_empty() { "" } else { ", and so is what `--for` asks" };
            print(format_args!(
                "{recipe}: no faults; `{id}` is a Hub id and not in the cache, so targets and chat template are unchecked{unchecked}"
            ))?;
            Terminal::default().say(&format!("note: `rankine pull {}` fetches it", shell_word(&id.to_string())));
        }
    }
    Ok(())
}

/// Rows are not read here, so that only bounds are known: what no row is short enough for is refused, what rows of full length have no room
/// for is noted.
fn judge_memory(plan: &Plan, terminal: &Terminal) -> Result<(), Failure> {
    plan.least_memory().check()?;
    let full = plan.memory_of_full_rows();
    if let Err(error) = full.check() {
        let length = plan.limits.sequence_len;
        terminal.say(&format!(
            "note: with rows of {length} tokens (`training.sequence_len`) {error}; `rankine plan` reads how long they are"
        ));
    }
    Ok(())
}
