//! Result of a run, as one JSON object. It is the last file but one that a run writes.

use std::path::Path;

use serde_json::{Value, json};

use crate::fault::{Exit, Failure, Fault};
use crate::files::{read_text, write_atomic};
use crate::plan::RunData;
use crate::report::peak_memory_bytes;
use crate::train::{RunFolder, State};

/// Returns the object.
pub fn object(run: &Path, state: &State, data: &RunData) -> Value {
    let total = data.ledger().total();
    let rows = json!({
        "read": total.rows,
        "trained": total.train,
        "validation": total.validation,
        "left_out": total.dropped(),
        "exact_duplicates": total.exact_duplicates,
        "near_duplicates": total.near_duplicates,
        "near_held_out": total.near_held_out,
        "per_epoch": data.training().per_epoch(),
    });
    json!({
        "run": run.display().to_string(),
        "steps": state.step,
        "loss": state.loss,
        "eval_loss_first": state.eval_loss_first,
        "eval_loss_best": state.eval_loss_best,
        "best_step": state.best_step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "rows": rows,
    })
}

/// Writes the object into the run's folder.
pub fn write(run: &Path, result: &Value) -> Result<(), Failure> {
    Ok(write_atomic(
        &run.join(RunFolder::RESULT),
        format!("{result:#}\n").as_bytes(),
    )?)
}

/// Reads the object of a finished run, with the current name of the folder.
pub fn read(run: &Path) -> Result<Value, Failure> {
    let path = run.join(RunFolder::RESULT);
    let mut result: Value = serde_json::from_str(&read_text(&path)?).map_err(|error| {
        Failure::new(
            Exit::Input,
            Fault::new(format!("`{}` is not valid: {error}", path.display())),
        )
    })?;
    result["run"] = json!(run.display().to_string());
    Ok(result)
}
