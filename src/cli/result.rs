//! Result of a run, as one JSON object or as lines.

use std::path::Path;

use serde_json::Value;

use super::{Failure, print};
use crate::train::RunFolder;

/// Prints the result of a run.
pub(super) fn print_result(run: &Path, result: &Value, json: bool) -> Result<(), Failure> {
    if json {
        print(result)
    } else {
        print_lines(run, result)
    }
}

/// Prints the lines for a person.
fn print_lines(run: &Path, result: &Value) -> Result<(), Failure> {
    let number = |key: &str| result[key].as_f64();
    if let (Some(first), Some(best), Some(step)) = (
        number("eval_loss_first"),
        number("eval_loss_best"),
        number("best_step"),
    ) {
        print(format_args!(
            "validation loss {first:.4} -> {best:.4} at step {step} ({:+.1} %)",
            100.0 * (best / first - 1.0)
        ))?;
    }
    let at = |name: &str| run.join(name).display().to_string();
    if let Some(product) = RunFolder::product_in(run) {
        let name = product
            .file_name()
            .unwrap_or_default()
            .display()
            .to_string();
        print(format_args!("{name:<11} {}", product.display()))?;
    }
    print(format_args!("metrics     {}", at(RunFolder::METRICS)))?;
    print(format_args!("what it is  {}", at(RunFolder::CARD)))
}
