//! `rankine check`: all faults at once, or one line that there are none.

use super::{Failure, RecipeArgs};
use crate::device;
use crate::plan::Resolved;

pub(super) fn check(args: &RecipeArgs) -> Result<(), Failure> {
    let recipe = args.recipe.display();
    match args.resolve()? {
        Resolved::Plan(plan) => {
            device::check(plan.device, args.force)?;
            println!("{recipe}: no faults");
        }
        Resolved::Hub(id) => {
            println!("{recipe}: no faults; `{id}` is a Hub id and was not looked up, so targets and chat template are unchecked");
        }
    }
    Ok(())
}
