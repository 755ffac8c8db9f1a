//! A device that runs out of memory during a run: what is saved, and which change of the recipe
//! would need less.

use super::device_fault::GoingOn;
use crate::device;
use crate::fault::{Exit, Failure, Fault};
use crate::files::guarded;
use crate::plan::MemoryPlan;

impl Failure {
    /// Makes the failure if nothing more is known.
    pub(super) fn ran_out(said: &str) -> Self {
        let hint = "choose a smaller base or shorter rows, free memory of the device, or use \
            `device: cpu`";
        Self::new(
            Exit::Memory,
            Fault::new(format!("the device ran out of memory: {said}")).hint(hint),
        )
    }
}

/// Makes the failure of a run whose device ran out of memory; `planned` is its memory plan.
pub fn during(run: &GoingOn, planned: Option<&MemoryPlan>, said: &str) -> Failure {
    let Some(planned) = planned else {
        return Failure::ran_out(said);
    };
    let device = run.plan.device;
    // The device may not answer any more.
    let held = guarded(|| {
        device::open(device)
            .ok()
            .and_then(|device| device::peak_memory_bytes(&device))
    })
    .ok()
    .flatten();
    let hint = format!(
        "{}; where no more memory is free, {}",
        run.next(),
        planned.smaller(held)
    );
    Failure::new(
        Exit::Memory,
        Fault::new(format!("`{device}` ran out of memory: {said}")).hint(hint),
    )
}
