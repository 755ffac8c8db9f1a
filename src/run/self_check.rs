//! The gradient check of a device before the first step of a run.

use crate::device::{self, DeviceClass, FoundDevice};
use crate::fault::Failure;
use crate::files::cache_folder;
use crate::model::Storage;
use crate::plan::Plan;
use crate::proof::{self, ProbeModel};
use crate::report::{Event, Reporter};

/// Proves the device of a run before its first step, unless the proof is stored or the device is
/// the CPU, which is the reference. With `force`, a refused device is used anyway, with a note.
pub fn check_before_training(
    plan: &Plan,
    storage: Storage,
    force: bool,
    report: Reporter,
) -> Result<(), Failure> {
    let Some(found) =
        device::find(plan.device).filter(|found| found.kind != DeviceClass::Processor)
    else {
        return Ok(());
    };
    let tiny = ProbeModel::of(&plan.model.spec, storage, plan.trains.method());
    let opened = device::open(plan.device)?;
    match proof::prove_once(&found, &tiny, &opened, plan.products(), &cache_folder()) {
        Ok(verdict) => report(Event::Note(format!(
            "training on `{}` is proven: {verdict}",
            plan.device
        ))),
        Err(error) if force => report(Event::Note(format!(
            "{error}; going on because of `--force`"
        ))),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Returns whether training of some model is proven on a device, and of none is refused. Runs no
/// proof.
pub fn is_proven(found: &FoundDevice) -> bool {
    found.kind == DeviceClass::Processor
        || proof::is_proven(found, &cache_folder()).unwrap_or(false)
}
