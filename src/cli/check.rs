//! `rankine check`: all faults at once, or one line that there are none.

use super::{Failure, RecipeArgs, print};
use crate::fault::shell_word;
use crate::plan::Resolved;
use crate::report::Terminal;

pub(super) fn check(args: &RecipeArgs) -> Result<(), Failure> {
    let recipe = args.recipe.display();
    match args.resolve()? {
        Resolved::Plan(plan) => {
            for note in plan.notes() {
                Terminal::default().say(&format!("note: {note}"));
            }
            print(format_args!("{recipe}: no faults"))?;
        }
        Resolved::Hub { id, .. } => {
            print(format_args!(
                "{recipe}: no faults; `{id}` is a Hub id and not in the cache, so targets and chat template are unchecked"
            ))?;
            Terminal::default().say(&format!("note: `rankine pull {}` fetches it", shell_word(&id.to_string())));
        }
    }
    Ok(())
}
