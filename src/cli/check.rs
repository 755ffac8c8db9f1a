//! `rankine check`: prints all faults at once, or one line if there are none.

use clap::Args;

use super::consumers::ConsumerArgs;
use super::{Failure, RecipeArgs, hub, print};
use crate::hub::HubError;
use crate::plan::{Plan, Resolved};
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    consumers: ConsumerArgs,
}

pub(super) fn check(
    CheckArgs {
        recipe: args,
        consumers,
    }: &CheckArgs,
) -> Result<(), Failure> {
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
        Resolved::Hub { base, datasets, .. } => {
            let unchecked = if consumers.is_empty() {
                ""
            } else {
                ", and so is what `--for` asks"
            };
            let base = base.map(|(id, missing)| hub::not_cached(&id, missing));
            let of_base = base.map(|error| {
                (
                    error,
                    "is a Hub id and not in the cache, so targets and chat template are unchecked",
                )
            });
            let of_data = datasets.into_iter().map(|error| {
                (
                    error,
                    "is not in the cache, so its columns and rows are unchecked",
                )
            });
            let absent: Vec<_> = of_base
                .into_iter()
                .chain(of_data)
                .filter_map(|(error, what)| absence(error, what))
                .collect();
            let what: Vec<&str> = absent.iter().map(|(what, _)| what.as_str()).collect();
            print(format_args!(
                "{recipe}: no faults; {}{unchecked}",
                what.join("; ")
            ))?;
            for (_, note) in &absent {
                terminal.say(note);
            }
        }
    }
    Ok(())
}

/// Returns what is missing in the cache, and how to fetch it.
fn absence(error: HubError, what: &str) -> Option<(String, String)> {
    let HubError::NotCached { id, pull, .. } = error else {
        return None;
    };
    Some((
        format!("`{id}` {what}"),
        format!("note: `rankine pull {pull}` fetches it"),
    ))
}

/// Checks memory by bounds, because rows are not read here. A plan that does not fit even with the
/// shortest rows is refused; rows of full length that do not fit are noted.
fn judge_memory(plan: &Plan, terminal: &Terminal) -> Result<(), Failure> {
    plan.least_memory().check()?;
    let full = plan.memory_of_full_rows();
    if let Err(error) = full.check() {
        let length = plan.limits.sequence_len;
        terminal.say(&format!(
            "note: with rows of {length} tokens (`training.sequence_len`) {error}; `rankine plan` \
            reads how long they are"
        ));
    }
    Ok(())
}
