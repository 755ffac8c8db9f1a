//! The plan of a recipe, with what it names on the Hub.

use super::hub;
use crate::device;
use crate::fault::{Exit, Explain, Failure};
use crate::plan::{self, Fetched, Plan, Resolved};
use crate::recipe::Recipe;
use crate::report::{Event, Reporter};

/// Resolves a recipe, and fetches its base and datasets from the Hub if they are not in the cache.
///
/// # Errors
/// All faults of the recipe and of what it names, or the device cannot be used.
pub fn plan(recipe: Recipe, report: Reporter) -> Result<Plan, Failure> {
    let fetched = fetch(&recipe, report)?;
    with_base(resolve(recipe, fetched, report)?)
}

/// Resolves a recipe for what was fetched.
pub fn resolve(recipe: Recipe, fetched: Fetched, report: Reporter) -> Result<Resolved, Failure> {
    let resolved = plan::resolve_on(recipe, None, fetched, report)?;
    report(Event::Ended);
    device::check(match &resolved {
        Resolved::Plan(plan) => plan.device,
        Resolved::Hub { device, .. } => *device,
    })?;
    Ok(resolved)
}

/// Returns whether a recipe names a base or data of the Hub.
pub fn is_of_hub(recipe: &Recipe) -> bool {
    base_id(recipe).is_some() || !plan::requests(recipe).is_empty()
}

/// Fetches the base and the datasets from the Hub. Nothing is fetched for a recipe with faults.
fn fetch(recipe: &Recipe, report: Reporter) -> Result<Fetched, Failure> {
    if !is_of_hub(recipe) {
        return Ok(Fetched::default());
    }
    resolve(recipe.clone(), Fetched::default(), report)?;
    let base = base_id(recipe)
        .map(|id| hub::fetch(&id, report))
        .transpose()?;
    let datasets = hub::fetch_datasets(recipe, report)?;
    Ok(Fetched { base, datasets })
}

fn base_id(recipe: &Recipe) -> Option<crate::hub::RepoId> {
    let said = recipe.base_model.as_ref()?;
    plan::hub_id(&said.value)
}

/// Returns the plan, if its base and data are available.
pub fn with_base(resolved: Resolved) -> Result<Plan, Failure> {
    match resolved {
        Resolved::Plan(plan) => Ok(*plan),
        Resolved::Hub { base, datasets, .. } => {
            let base = base.map(|(id, missing)| hub::not_cached(&id, missing));
            let faults = base
                .iter()
                .chain(&datasets)
                .flat_map(Explain::faults)
                .collect();
            Err(Failure {
                exit: Exit::Unavailable,
                faults,
            })
        }
    }
}
