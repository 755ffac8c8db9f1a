//! `rankine check`: all faults at once, or one line that there are none.

use clap::Args;

use super::consumers::ConsumerArgs;
use super::{Failure, RecipeArgs, print};
use crate::fault::shell_word;
use crate::plan::Resolved;
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
            let of_validation = plan.notes_of_validation(&|event| terminal.take(&event))?;
            terminal.stop();
            for note in plan.notes().into_iter().chain(of_validation) {
                terminal.say(&format!("note: {note}"));
            }
            consumers.judge_plan(&terminal, &plan)?;
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
