//! A device that ran out of memory during a run: what is saved, and what change of the recipe would need less.

use super::Failure;
use crate::device;
use crate::fault::{Exit, Fault, shell_word};
use crate::plan::{MemoryPlan, Plan};
use crate::train::Checkpoint;

impl Failure {
    /// A device ran out of memory and nothing more is known.
    pub fn ran_out(said: &str) -> Self {
        let hint = "choose a smaller base or shorter rows, free memory of the device, or use `device: cpu`";
        Self::new(Exit::Memory, Fault::new(format!("the device ran out of memory: {said}")).hint(hint))
    }
}

/// The failure of a run whose device ran out of memory while `planned` was carried out.
pub(super) fn during(plan: &Plan, planned: Option<&MemoryPlan>, said: &str) -> Failure {
    let Some(planned) = planned else { return Failure::ran_out(said) };
    let message = format!("`{}` ran out of memory: {said}", plan.device);
    let run = shell_word(&plan.output_dir.display().to_string());
    let saved = Checkpoint::latest(&plan.output_dir, &|_| {}).ok().flatten();
    let saved = saved.map_or_else(
        || "nothing is saved yet".to_owned(),
        |from| {
            let (path, step) = (from.path().display(), from.state.step);
            format!("the first {step} steps are in `{path}`, and `rankine resume {run}` goes on where more memory is free")
        },
    );
    let held = device::open(plan.device).ok().and_then(|device| device::peak_memory_bytes(&device));
    let hint = format!("{saved}; of less memory: {}", planned.smaller(held));
    Failure::new(Exit::Memory, Fault::new(message).hint(hint))
}
