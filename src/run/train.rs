//! A new run.

use super::folder::ClaimedRunFolder;
use super::inputs::Inputs;
use super::session::{Beginning, DeviceCheck, Finished, Session};
use super::signals::Signals;
use crate::device;
use crate::fault::{Failure, shell_word};
use crate::plan::Plan;
use crate::report::Reporter;

/// Settings for starting a run.
#[derive(Debug, Default)]
pub struct TrainOptions {
    /// Whether to remove the run that the output folder holds.
    pub overwrite: bool,
    /// The check of the device before training.
    pub device_check: DeviceCheck,
    /// The command that the lock and hints tell; without it `rankine train` and the recipe's file.
    pub command: Option<String>,
}

/// Trains what a plan describes, up to the end of the run.
///
/// # Errors
/// The output folder is in use or holds another run, an input cannot be read or changes meanwhile,
/// there is not enough memory, the device failed its check or fails, training diverges, or
/// `signals` ends it: [`Failure::exit`] tells which.
pub fn train(
    plan: Plan,
    options: TrainOptions,
    signals: &Signals,
    report: Reporter,
) -> Result<Finished, Failure> {
    plan.check_trains()?;
    let recipe = || shell_word(&plan.recipe.display().to_string());
    let command = options
        .command
        .unwrap_or_else(|| format!("rankine train {}", recipe()));
    let folder = ClaimedRunFolder::find(&plan, options.overwrite, &command)?;
    signals.leaves(folder.traces(false));
    let threads = device::set_threads(plan.threads);
    let inputs = Inputs::of(&plan)?;
    let hashing = inputs.hash();
    let session = Session {
        plan,
        inputs,
        folder,
        command: Some(command),
        device_check: options.device_check,
        signals,
        report,
    };
    session.run(Beginning::New { threads, hashing })
}
