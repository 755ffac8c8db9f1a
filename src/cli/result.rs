//! What a run came to, as lines or as one JSON object.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Failure, print};
use crate::report::peak_memory_bytes;
use crate::train::{RunFolder, State};

/// The object of `--json`.
pub(super) fn object(run: &Path, state: &State, elapsed: Duration) -> Value {
    json!({
        "run": run.display().to_string(),
        "steps": state.step,
        "loss": state.loss,
        "eval_loss_first": state.eval_loss_first,
        "eval_loss_best": state.eval_loss_best,
        "best_step": state.best_step,
        "tokens": state.tokens,
        "seconds": elapsed.as_secs_f64(),
        "peak_memory_bytes": peak_memory_bytes(),
    })
}

/// The lines for a person.
pub(super) fn print_lines(run: &Path, state: &State) -> Result<(), Failure> {
    if let (Some(first), Some(best), Some(step)) = (state.eval_loss_first, state.eval_loss_best, state.best_step) {
        print(format_args!("validation loss {first:.4} -> {best:.4} at step {step} ({:+.1} %)", 100.0 * (best / first - 1.0)))?;
    }
    let at = |name: &str| run.join(name).display().to_string();
    print(format_args!("adapter     {}", at(RunFolder::ADAPTER)))?;
    print(format_args!("metrics     {}", at(RunFolder::METRICS)))?;
    print(format_args!("what it is  {}", at(RunFolder::CARD)))
}
