//! Inspection of a run: what was trained on which data, and its progress.

use std::path::Path;

use serde_json::{Value, json};

use super::{Findings, adapter};
use crate::cli::Failure;
use crate::files::{Claim, read_text};
use crate::run::{Lock, read_result};
use crate::train::RunFolder;

pub(super) fn look(path: &Path) -> Result<Findings, Failure> {
    let mut found = Findings::new("run", path);
    if is_running(path) && !path.join(RunFolder::METRICS).exists() {
        found.tell(
            "state",
            "running: rows and weights are being read, there is no step yet",
            json!("running"),
        );
        return Ok(found);
    }
    let lock = Lock::read(&path.join(RunFolder::LOCK))?;
    let recipe = &lock.values()["recipe"];
    let base = recipe["base_model"].as_str().unwrap_or("not told");
    found.tell("base", base, recipe["base_model"].clone());
    let data: Vec<&str> = recipe["datasets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|data| data["path"].as_str())
        .collect();
    found.tell("datasets", data.join(", "), json!(data));
    let method = recipe["adapter"]["method"].as_str().unwrap_or("lora");
    found.tell("method", method, json!(method));
    found.object["recipe"] = recipe.clone();
    let (steps, last, best) = metrics(path)?;
    let said =
        |loss: Option<f64>| loss.map_or_else(|| "not told".to_owned(), |loss| format!("{loss:.4}"));
    found.tell(
        "steps",
        format!("{steps}, loss {} at the last", said(last)),
        json!(steps),
    );
    found.tell("best_validation_loss", said(best), json!(best));
    let is_over = path.join(RunFolder::RESULT).exists();
    let (line, word) = match Claim::holder(path) {
        Some(Some(pid)) => (format!("running: process {pid}"), "running"),
        Some(None) => ("running".to_owned(), "running"),
        None if is_over => ("over".to_owned(), "over"),
        None => (
            "stopped: `rankine resume` continues it".to_owned(),
            "stopped",
        ),
    };
    found.tell("state", line, json!(word));
    if is_over {
        found.object["result"] = read_result(path)?;
    }
    if let Some(product) = RunFolder::product_in(path) {
        found.tell(
            "product",
            product.display().to_string(),
            json!(product.display().to_string()),
        );
        if product.ends_with(RunFolder::ADAPTER) {
            let of_adapter = adapter::look(&product)?;
            found.lines.extend(of_adapter.lines.into_iter().skip(2));
            found.object["adapter"] = of_adapter.object;
        }
    }
    Ok(found)
}

/// Returns whether a process is using the folder.
pub(super) fn is_running(path: &Path) -> bool {
    Claim::holder(path).is_some()
}

/// Returns the number of steps, the loss of the last one, and the lowest validation loss.
fn metrics(path: &Path) -> Result<(u64, Option<f64>, Option<f64>), Failure> {
    let (mut steps, mut last, mut best): (u64, Option<f64>, Option<f64>) = (0, None, None);
    for line in read_text(&path.join(RunFolder::METRICS))?.lines() {
        // The last line of a killed run may be incomplete.
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if let Some(loss) = line["loss"].as_f64() {
            (steps, last) = (line["step"].as_u64().unwrap_or(steps), Some(loss));
        }
        if let Some(loss) = line["eval_loss"].as_f64() {
            best = Some(best.map_or(loss, |best| best.min(loss)));
        }
    }
    Ok((steps, last, best))
}
