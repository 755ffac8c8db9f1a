//! Warnings that a reader needs before trusting the figures: each run's irregularities in words.

use serde_json::Value;

use super::axis::with_groups;
use super::html::Html;
use super::{Progress, RunRecord, listed, said};

/// The most steps that a sentence names.
const NAMED: usize = 10;

/// Writes the warnings of all runs, or that there are none.
pub(super) fn warnings(html: &mut Html, runs: &[RunRecord]) {
    let all: Vec<(&RunRecord, Vec<String>)> = runs.iter().map(|run| (run, of_run(run))).collect();
    if all.iter().all(|(_, words)| words.is_empty()) {
        html.words(
            "p",
            &[("class", "regular")],
            "Nothing irregular is on record: no step skipped, no stop, no changed input.",
        );
        return;
    }
    html.element("section", &[("class", "warnings")], |section| {
        section.words("h2", &[], "To know");
        for (run, words) in all.iter().filter(|(_, words)| !words.is_empty()) {
            if runs.len() > 1 {
                section.words("h3", &[], &run.name);
            }
            section.element("ul", &[], |list| {
                for words in words {
                    list.words("li", &[], words);
                }
            });
        }
    });
}

fn of_run(run: &RunRecord) -> Vec<String> {
    let own = [
        unfinished(run),
        unread(run),
        skipped(run),
        unscored(run),
        no_better(run),
    ];
    own.into_iter()
        .flatten()
        .chain(resumed(run))
        .chain(run.notes.iter().cloned())
        .collect()
}

fn unfinished(run: &RunRecord) -> Option<String> {
    let last = run.metrics.steps.last().map_or(0, |step| step.step);
    match run.progress {
        Progress::Finished => None,
        Progress::Running => Some(format!(
            "The run is going on: its last step so far is {}",
            numbered(last)
        )),
        Progress::Unfinished => Some(format!(
            "The run is not finished: its last step is {}",
            numbered(last)
        )),
    }
}

fn unread(run: &RunRecord) -> Option<String> {
    match run.metrics.unreadable {
        0 => None,
        1 => Some("1 line of metrics.jsonl cannot be read and is left out".to_owned()),
        lines => Some(format!(
            "{} lines of metrics.jsonl cannot be read and are left out",
            numbered(lines)
        )),
    }
}

fn skipped(run: &RunRecord) -> Option<String> {
    let skipped: Vec<u64> = run
        .metrics
        .steps
        .iter()
        .filter(|step| step.skipped)
        .map(|step| step.step)
        .collect();
    let rest = skipped.len().saturating_sub(NAMED);
    let rest = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    let named = || listed(skipped.iter().take(NAMED).map(|step| numbered(*step)));
    let words = || {
        format!(
            "{} of {} steps were skipped, because a loss or gradient was not finite: {}{rest}",
            numbered(skipped.len() as u64),
            numbered(run.metrics.steps.len() as u64),
            named()
        )
    };
    (!skipped.is_empty()).then(words)
}

/// Warns if there are no validation rows: nobody can then tell learning from memorizing.
fn unscored(run: &RunRecord) -> Option<String> {
    let words = "No row was held out: the training loss alone does not tell what was learned from \
        what was memorized";
    (run.metrics.evaluations.is_empty() && !run.metrics.steps.is_empty()).then(|| words.to_owned())
}

fn no_better(run: &RunRecord) -> Option<String> {
    let (first, (_, best)) = (run.metrics.first_loss()?, run.metrics.best()?);
    (best >= first).then(|| {
        format!("The base scores {first:.4}, what was trained on it {best:.4}, which is no better")
    })
}

/// Returns the steps after which a run was resumed.
pub(super) fn resumed_after(run: &RunRecord) -> Vec<u64> {
    let entries = run
        .lock
        .get("resumed")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| entry.get("step")?.as_u64())
        .collect()
}

/// Returns how often the run was resumed, and with which changes since its start.
fn resumed(run: &RunRecord) -> Vec<String> {
    let entries = run
        .lock
        .get("resumed")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let steps = listed(resumed_after(run).into_iter().map(numbered));
    let times = match entries.len() {
        0 => None,
        1 => Some(format!(
            "The run was stopped and went on once, after step {steps}"
        )),
        times => Some(format!(
            "The run was stopped and went on {times} times, after steps {steps}"
        )),
    };
    times
        .into_iter()
        .chain(entries.iter().flat_map(changed))
        .collect()
}

fn changed(entry: &Value) -> Vec<String> {
    let step = entry
        .get("step")
        .and_then(Value::as_u64)
        .map_or_else(|| "?".to_owned(), numbered);
    let other = |(key, value): (&String, &Value)| match key.as_str() {
        "step" | "at" | "forced" | "blake3" => None,
        key => Some(format!(
            "From step {step} on: {} is {}",
            key.replace('_', " "),
            said(value)
        )),
    };
    let others = entry.as_object().into_iter().flatten().filter_map(other);
    let forced = entry
        .get("forced")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let forced = forced.map(|change| format!("From step {step} on, by --force: {}", said(change)));
    forced.chain(others).collect()
}

fn numbered(number: u64) -> String {
    with_groups(&number.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::metrics::{EvaluationLine, Metrics, StepLine};
    use super::*;

    #[test]
    fn each_irregularity_is_said() {
        let step = |step, skipped| StepLine {
            step,
            skipped,
            ..StepLine::default()
        };
        let evaluation = |step, loss| EvaluationLine {
            step,
            loss: Some(loss),
            ..EvaluationLine::default()
        };
        let metrics = Metrics {
            steps: (1..=20).map(|at| step(at, at > 8)).collect(),
            evaluations: vec![evaluation(0, 2.0), evaluation(20, 2.5)],
            unreadable: 1,
        };
        let lock = json!({"resumed": [
            {"step": 3, "at": "x", "threads": 4},
            {"step": 7, "forced": ["data: `a` has changed since the run started"], "blake3": {}},
        ]});
        let run = RunRecord {
            metrics,
            lock: lock.as_object().cloned().unwrap_or_default(),
            ..RunRecord::default()
        };
        let expected = [
            "The run is not finished: its last step is 20",
            "1 line of metrics.jsonl cannot be read and is left out",
            "12 of 20 steps were skipped, because a loss or gradient was not finite: 9, 10, 11, \
            12, 13, 14, 15, 16, 17, 18 and 2 more",
            "The base scores 2.0000, what was trained on it 2.5000, which is no better",
            "The run was stopped and went on 2 times, after steps 3, 7",
            "From step 3 on: threads is 4",
            "From step 7 on, by --force: data: `a` has changed since the run started",
        ];
        assert_eq!(of_run(&run), expected);
    }

    #[test]
    fn a_run_in_order_has_nothing_to_warn_of() {
        assert!(
            of_run(&RunRecord {
                progress: Progress::Finished,
                ..RunRecord::default()
            })
            .is_empty()
        );
    }
}
