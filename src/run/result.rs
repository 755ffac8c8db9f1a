//! Result of a run, as one JSON object. It is the last file but one that a run writes.

use std::path::Path;

use serde_json::{Map, Value, json};

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
    let mut result = json!({
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
    });
    let figures = figures(run, state);
    if let Some(result) = result.as_object_mut() {
        result.extend(figures);
    }
    result
}

/// Keys of a line of an evaluation that say the same as others of the result.
const OF_LOSS: [&str; 5] = [
    "step",
    "eval_loss",
    "eval_perplexity",
    "eval_loss_content",
    "eval_loss_end_of_turn",
];

/// Returns the objective's own figures of the validation rows, before training and at the best
/// step, from the run's metrics; nothing where the objective has none.
fn figures(run: &Path, state: &State) -> Map<String, Value> {
    let text = read_text(&run.join(RunFolder::METRICS)).unwrap_or_default();
    let lines: Vec<Map<String, Value>> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let at = |step: u64| -> Map<String, Value> {
        let line = lines.iter().rev().find(|line| {
            line.contains_key("eval_loss") && line.get("step").and_then(Value::as_u64) == Some(step)
        });
        let own = line.into_iter().flatten();
        own.filter(|(key, _)| !OF_LOSS.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let best = state.best_step.map(at).unwrap_or_default();
    [("eval_figures_first", at(0)), ("eval_figures_best", best)]
        .into_iter()
        .filter(|(_, figures)| !figures.is_empty())
        .map(|(key, figures)| (key.to_owned(), Value::Object(figures)))
        .collect()
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
