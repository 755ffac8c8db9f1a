//! Failure of a device during a run: the driver's message, what is saved, and the command that
//! continues the run.

use std::any::Any;
use std::path::Path;

use crate::fault::{Exit, Failure, Fault, quoted, shell_word};
use crate::panics::{Cause, DeviceFault};
use crate::plan::Plan;
use crate::train::{Checkpoint, TrainError, all_corrupted};

impl Failure {
    /// Makes the failure of a command that panicked: a device ran out of memory, a device failed,
    /// or Rankine has a bug.
    pub fn of_panic(panic: &(dyn Any + Send)) -> Self {
        match Cause::of(panic) {
            Cause::OutOfMemory(said) => Self::ran_out(&said),
            Cause::Device(fault) => {
                let message = format!("the device failed: {fault}");
                Self::new(Exit::Unavailable, Fault::new(message).hint(fault.advice()))
            }
            Cause::Internal(said) => {
                let hint = "please report it to the project's issues, with the recipe and with \
                    what `-v` prints";
                Self::new(
                    Exit::Internal,
                    Fault::new(format!("internal error: {}", without_values(&said))).hint(hint),
                )
            }
        }
    }
}

/// Marks the values in a panic message, which may quote the data.
fn without_values(said: &str) -> String {
    let starts = [" of `", " value: "]
        .into_iter()
        .filter_map(|before| said.find(before).map(|at| at + before.len()));
    let Some(start) = starts.min() else {
        return said.to_owned();
    };
    format!("{}{}", &said[..start], quoted(&said[start..]))
}

/// Ways to continue a run that a device ended.
#[derive(Debug)]
pub struct GoingOn<'a> {
    pub plan: &'a Plan,
    /// The command that started the run, if nothing of it is saved yet.
    pub start: Option<&'a str>,
    /// Whether the output folder already holds files of this run.
    pub has_begun: bool,
    /// Options that `resume` needs to accept what this command accepted.
    pub options: &'static str,
}

impl GoingOn<'_> {
    /// Makes the failure of a run whose device failed.
    pub fn after(&self, fault: &DeviceFault) -> Failure {
        let hint = format!("{}; {}", self.next(), fault.advice());
        Failure::new(
            Exit::Unavailable,
            Fault::new(format!("`{}` failed: {fault}", self.plan.device)).hint(hint),
        )
    }

    /// Returns what is saved, and the command that continues from there. It reads files only,
    /// because a failed device does not answer.
    pub fn next(&self) -> String {
        let resume = format!(
            "`rankine resume {}{}`",
            shell_word(&self.plan.output_dir.display().to_string()),
            self.options
        );
        let saved = if self.has_begun {
            Checkpoint::latest(&self.plan.output_dir, &|_| {})
        } else {
            Ok(None)
        };
        match saved {
            Ok(saved) => continuation(
                saved.as_ref().map(|from| (from.path(), from.state.step)),
                &resume,
                self.start,
            ),
            Err(TrainError::NoneWhole { checkpoints, .. }) => all_corrupted(checkpoints, ""),
            Err(error) => format!(
                "the checkpoints cannot be read ({error}); once they can, {resume} continues"
            ),
        }
    }
}

/// Returns the saved steps and the command that continues from them, or the command that starts
/// again.
fn continuation(saved: Option<(&Path, u64)>, resume: &str, start: Option<&str>) -> String {
    match (saved, start) {
        (Some((path, step)), _) => {
            format!(
                "the run is saved up to step {step} in `{}`; {resume} continues from there",
                path.display()
            )
        }
        (None, Some(start)) => format!("nothing is saved yet; start again with `{start}`"),
        (None, None) => format!("nothing is saved yet; start again with {resume}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_continues_is_told() {
        let (resume, start) = (
            "`rankine resume run --skip-proof`",
            "rankine train recipe.yaml --skip-proof",
        );
        let path = Path::new("run/checkpoints/step-7");
        assert_eq!(
            continuation(Some((path, 7)), resume, Some(start)),
            "the run is saved up to step 7 in `run/checkpoints/step-7`; `rankine resume run \
            --skip-proof` continues from there"
        );
        let [again, resumed] = [Some(start), None].map(|start| continuation(None, resume, start));
        assert_eq!(
            again,
            "nothing is saved yet; start again with `rankine train recipe.yaml --skip-proof`"
        );
        assert_eq!(
            resumed,
            "nothing is saved yet; start again with `rankine resume run --skip-proof`"
        );
    }

    #[test]
    fn a_panic_of_a_device_is_no_internal_error() {
        let failure = |words: &str| Failure::of_panic(&words.to_owned());
        let faulty = failure(
            "The device is poisoned\nCaused by:\n  cuEventSynchronize failed with status \
            214\nBacktrace:\nnone",
        );
        let [fault] = &faulty.faults[..] else {
            panic!("one fault: {faulty:?}")
        };
        assert_eq!(faulty.exit, Exit::Unavailable);
        assert!(
            fault.message.starts_with(
                "the device failed: CUDA_ERROR_ECC_UNCORRECTABLE (214), the card's memory is faulty"
            ),
            "{fault}"
        );
        assert!(
            fault
                .message
                .ends_with("cuEventSynchronize failed with status 214"),
            "{fault}"
        );
        assert!(
            fault
                .hint
                .as_ref()
                .is_some_and(|hint| hint.contains("nvidia-smi")),
            "{fault:?}"
        );
        assert_eq!(
            failure("out of device memory allocating 4096 bytes\nnone").exit,
            Exit::Memory
        );
        let slice = failure(
            "byte index 1 is not a char boundary; it is inside 'é' (bytes 0..2) of `élan Smith`",
        );
        assert!(
            !slice.faults[0].to_string().contains("Smith")
                && slice.faults[0].to_string().contains("of `"),
            "{slice:?}"
        );
        let bug = failure("index out of bounds");
        assert_eq!(
            (bug.exit, bug.faults[0].message.as_str()),
            (Exit::Internal, "internal error: index out of bounds")
        );
    }
}
