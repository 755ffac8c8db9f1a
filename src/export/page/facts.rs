//! What was trained and its results: a sentence per run, and the figures of all runs side by side.

use serde_json::Value;

use super::axis::with_groups;
use super::html::Html;
use super::metrics::{EvaluationLine, Metrics, StepLine};
use super::{Progress, RunRecord, listed, said, table};
use crate::report::{grouped, mebibytes};

/// Writes a summary of each run and its result.
pub(super) fn summaries(html: &mut Html, runs: &[RunRecord]) {
    for run in runs {
        let name = if runs.len() > 1 {
            format!("{}: ", run.name)
        } else {
            String::new()
        };
        html.words(
            "p",
            &[("class", "what")],
            &format!(
                "{name}{} on {}, trained on {}",
                adapter(run),
                base(run),
                data(run)
            ),
        );
        html.words("p", &[("class", "result")], &result(run));
    }
}

/// Writes the figures of all runs.
pub(super) fn facts(html: &mut Html, runs: &[RunRecord]) {
    html.element("section", &[], |section| {
        section.words("h2", &[], "Result");
        table::plain(section, runs, &table::rows(runs, of_run));
    });
}

/// Returns a value of the resolved recipe.
fn setting<'a>(run: &'a RunRecord, section: &str, key: &str) -> Option<&'a Value> {
    run.lock.get("recipe")?.get(section)?.get(key)
}

fn adapter(run: &RunRecord) -> String {
    let value = |key: &str| setting(run, "adapter", key).map(said);
    let method = value("method").map_or_else(|| "An adapter".to_owned(), |method| named(&method));
    let rank = value("r").map(|rank| format!(" of rank {rank}"));
    let from = value("init_from").map(|folder| format!(" that goes on from {folder}"));
    [Some(method), rank, from].into_iter().flatten().collect()
}

/// Returns the usual spelling of a method.
fn named(method: &str) -> String {
    match method {
        "lora" => "LoRA".to_owned(),
        "qlora" => "QLoRA".to_owned(),
        "full" => "All weights".to_owned(),
        other => other.to_owned(),
    }
}

fn base(run: &RunRecord) -> String {
    run.lock
        .get("recipe")
        .and_then(|recipe| recipe.get("base_model"))
        .map_or_else(|| "an unnamed base".to_owned(), said)
}

fn data(run: &RunRecord) -> String {
    let sets = run
        .lock
        .get("recipe")
        .and_then(|recipe| recipe.get("datasets"))
        .and_then(Value::as_array);
    let set = |set: &Value| {
        let of = |key: &str| set.get(key).map(said);
        let format = of("format").map(|format| format!(" ({format})"));
        of("path").unwrap_or_default() + &format.unwrap_or_default()
    };
    sets.map_or_else(
        || "unnamed data".to_owned(),
        |sets| listed(sets.iter().map(set)),
    )
}

fn result(run: &RunRecord) -> String {
    let losses = || run.metrics.steps.iter().filter_map(|step| step.loss);
    match (
        run.metrics.first_loss(),
        run.metrics.best(),
        losses().next().zip(losses().next_back()),
    ) {
        (Some(first), Some((step, best)), _) => {
            format!(
                "Validation loss {first:.4} → {best:.4} at step {} ({})",
                grouped(step),
                change(first, best)
            )
        }
        (None, Some((step, best)), _) => {
            format!("Validation loss {best:.4} at step {}", grouped(step))
        }
        (_, None, Some((first, last))) => format!(
            "Training loss {first:.4} → {last:.4} ({})",
            change(first, last)
        ),
        (_, None, None) => "No step with a finite loss".to_owned(),
    }
}

fn of_run(run: &RunRecord) -> Vec<(String, String)> {
    let word = |key: &str| run.lock.get(key).map(said);
    let known = [results(run), amounts(run), measured(run)]
        .concat()
        .into_iter();
    let surroundings = [
        ("Started", word("started").map(|started| moment(&started))),
        (
            "Device",
            word("device").map(|device| format!("{device}{}", threads(run))),
        ),
        ("Version of rankine", word("rankine")),
        ("Command", word("command")),
    ];
    known
        .chain(surroundings)
        .filter_map(|(name, value)| {
            Some((name.to_owned(), value.filter(|value| !value.is_empty())?))
        })
        .collect()
}

type Fact = (&'static str, Option<String>);

fn results(run: &RunRecord) -> Vec<Fact> {
    let (metrics, losses) = (&run.metrics, || {
        run.metrics.steps.iter().filter_map(|step| step.loss)
    });
    let perplexity = |loss: f64| {
        if metrics.is_of_units() || metrics.is_of_distillation() {
            format!("{loss:.4}")
        } else {
            format!("{loss:.4} (perplexity {})", perplexity(loss))
        }
    };
    let best = |(step, loss): (u64, f64)| format!("{} at step {}", perplexity(loss), grouped(step));
    let last = metrics
        .evaluations
        .last()
        .filter(|last| last.step > 0)
        .and_then(|last| Some((last.step, last.loss?)));
    let state = match run.progress {
        Progress::Finished => "finished",
        Progress::Running => "running",
        Progress::Unfinished => "not finished",
    };
    vec![
        ("State", Some(state.to_owned())),
        (
            "Validation loss before training",
            metrics.first_loss().map(perplexity),
        ),
        ("Validation loss at its best", metrics.best().map(best)),
        ("Validation loss at the end", last.map(best)),
        (
            if metrics.is_of_preferences() {
                "Preference accuracy, before and after"
            } else {
                "Accuracy, before and after"
            },
            before_and_after(metrics, |evaluation| evaluation.accuracy),
        ),
        (
            "Recall at 10, before and after",
            before_and_after(metrics, |evaluation| evaluation.recall),
        ),
        (
            "Training loss, first and last step",
            losses()
                .next()
                .zip(losses().next_back())
                .map(|(first, last)| format!("{first:.4} → {last:.4}")),
        ),
    ]
}

fn amounts(run: &RunRecord) -> Vec<Fact> {
    let steps = &run.metrics.steps;
    let sum = |of: fn(&StepLine) -> u64| {
        steps
            .iter()
            .fold(0_u64, |sum, step| sum.saturating_add(of(step)))
    };
    let skipped = steps.iter().filter(|step| step.skipped).count();
    let last = steps.last();
    let skipped = if skipped > 0 {
        format!(", {} of them skipped", grouped(skipped as u64))
    } else {
        String::new()
    };
    let (tokens, trained) = (sum(|step| step.tokens), sum(|step| step.trained_tokens));
    vec![
        (
            "Optimizer steps",
            Some(format!(
                "{}{skipped}",
                grouped(last.map_or(0, |last| last.step))
            )),
        ),
        (
            "Passes over the data",
            last.and_then(|last| last.epoch)
                .map(|epoch| format!("{epoch:.2}")),
        ),
        (
            "Tokens",
            Some(format!(
                "{}, {} of them trained",
                grouped(tokens),
                grouped(trained)
            )),
        ),
    ]
}

fn measured(run: &RunRecord) -> Vec<Fact> {
    let mut speeds: Vec<f64> = run
        .metrics
        .steps
        .iter()
        .filter_map(|step| step.tokens_per_second)
        .collect();
    speeds.sort_by(f64::total_cmp);
    let median = speeds
        .get(speeds.len() / 2)
        .map(|speed| format!("{} tokens per second", with_groups(&format!("{speed:.0}"))));
    let peak = run
        .metrics
        .steps
        .iter()
        .filter_map(StepLine::memory_bytes)
        .max();
    let planned = run.lock.get("planned_memory_bytes").and_then(Value::as_u64);
    vec![
        ("Time of training", run.seconds.map(duration)),
        ("Speed, median step", median),
        ("Peak memory, planned", planned.map(mebibytes)),
        ("Peak memory, measured", peak.map(mebibytes)),
    ]
}

fn threads(run: &RunRecord) -> String {
    let threads = run
        .lock
        .get("threads")
        .map(|threads| format!(", {} threads", said(threads)));
    let features = run
        .lock
        .get("cpu_features")
        .and_then(Value::as_array)
        .filter(|features| !features.is_empty());
    let features = features.map(|features| format!(", {}", listed(features.iter().map(said))));
    [threads, features].into_iter().flatten().collect()
}

pub(super) fn change(first: f64, last: f64) -> String {
    let percent = 100.0 * (last / first - 1.0);
    if percent.is_finite() {
        format!("{percent:+.1} %").replace('-', "−")
    } else {
        "from 0".to_owned()
    }
}

/// Returns the preference accuracy of validation rows at the first and at the last evaluation.
fn before_and_after(
    metrics: &Metrics,
    value: fn(&EvaluationLine) -> Option<f64>,
) -> Option<String> {
    let all = || metrics.evaluations.iter().filter_map(value);
    let (first, last) = (all().next()?, all().next_back()?);
    Some(format!("{first:.3}, {last:.3}"))
}

fn perplexity(loss: f64) -> String {
    let value = loss.exp();
    if value < 1e6 {
        with_groups(&format!("{value:.2}"))
    } else {
        format!("{value:.1e}")
    }
}

/// Formats a time to the second; a text that is no time stays as it is.
pub(super) fn moment(text: &str) -> String {
    text.parse::<jiff::Timestamp>().map_or_else(
        |_| text.to_owned(),
        |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{} h {minutes:02} min", grouped(hours)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_changes_are_said_as_people_say_them() {
        assert_eq!(
            [9.69, 125.0, 3660.0, 7_200_000.0].map(duration),
            ["9.7 s", "2 min 05 s", "1 h 01 min", "2,000 h 00 min"]
        );
        assert_eq!(
            [(2.0, 1.0), (1.0, 1.5), (0.0, 1.0)].map(|(first, last)| change(first, last)),
            ["−50.0 %", "+50.0 %", "from 0"]
        );
        assert_eq!(
            [0.0, 7.5, 700.0].map(perplexity),
            ["1.00", "1,808.04", "1.0e304"]
        );
        assert_eq!(
            moment("2026-11-21T10:58:08.943416618Z"),
            "2026-11-21 10:58:08 UTC"
        );
        assert_eq!(moment("<b>"), "<b>");
    }
}
