//! The plots of a report: those that help first when a run went wrong.

use super::RunRecord;
use super::chart::{Chart, Floor, Line, Mark, Resumed, draw};
use super::html::Html;
use super::line::Point;
use super::metrics::{EvaluationLine, StepLine};
use super::warnings::resumed_after;

const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = (1_u64 << 30) as f64;
const NATS: &str = "nats per trained token";

/// The value of a step that a plot shows.
type Value = fn(&StepLine) -> Option<f64>;

/// Writes all plots.
pub(super) fn charts(html: &mut Html, runs: &[RunRecord]) {
    html.element("section", &[("class", "plots")], |section| {
        section.words("h2", &[], "How it went");
        if !marks(runs).is_empty() {
            section.words(
                "p",
                &[("class", "note")],
                "A dotted upright line is where a run was resumed; its peak memory is counted anew \
                from there.",
            );
        }
        draw(section, &loss(runs));
        if runs.iter().any(|run| run.metrics.is_of_preferences()) {
            draw(section, &margins(runs));
            draw(
                section,
                &accuracies(runs, "Preference accuracy", "share of pairs"),
            );
        } else if runs.iter().any(|run| run.metrics.is_of_distillation()) {
            draw(section, &divergence(runs));
        } else if runs.iter().any(|run| run.metrics.is_of_texts()) {
            draw(section, &recalls(runs));
        } else if runs.iter().any(|run| run.metrics.has_accuracy()) {
            draw(
                section,
                &accuracies(runs, "Accuracy", "share that is right"),
            );
        } else if runs
            .iter()
            .any(|run| !run.metrics.evaluations.is_empty() && !run.metrics.is_of_units())
        {
            draw(section, &loss_by_kind(runs));
        }
        let plain: [(_, _, Value); 3] = [
            ("Learning rate", "per update", |step| step.learning_rate),
            ("Gradient norm before clipping", "global L2 norm", |step| {
                step.grad_norm
            }),
            ("Speed", "tokens per second", |step| step.tokens_per_second),
        ];
        for (title, unit, value) in plain {
            draw(section, &of_steps(runs, title, unit, value));
        }
        draw(section, &memory(runs));
    });
}

/// Returns the plot of the loss of training rows, and of validation rows with dots.
fn loss(runs: &[RunRecord]) -> Chart {
    let training = of_each(runs, 0, "training", Mark::Faint, |run| {
        points(run, |step| step.loss)
    });
    let validation = of_each(runs, 1, "validation", Mark::Dots, |run| {
        scores(run, |evaluation| evaluation.loss)
    });
    let unit = if runs.iter().any(|run| run.metrics.is_of_units()) {
        "per pair or row"
    } else {
        NATS
    };
    Chart {
        title: "Loss",
        unit,
        floor: Floor::Lowest,
        lines: training.chain(validation).collect(),
        marks: marks(runs),
    }
}

/// Returns the plot of the mean difference of rewards.
fn margins(runs: &[RunRecord]) -> Chart {
    let training = of_each(runs, 0, "training", Mark::Faint, |run| {
        points(run, |step| step.margin)
    });
    let validation = of_each(runs, 1, "validation", Mark::Dots, |run| {
        scores(run, |evaluation| evaluation.margin)
    });
    Chart {
        title: "Reward margin",
        unit: "chosen minus rejected",
        floor: Floor::Lowest,
        lines: training.chain(validation).collect(),
        marks: marks(runs),
    }
}

/// Returns the plot of the share of pairs whose chosen completion wins, or of right classes.
fn accuracies(runs: &[RunRecord], title: &'static str, unit: &'static str) -> Chart {
    let training = of_each(runs, 0, "training", Mark::Faint, |run| {
        points(run, |step| step.accuracy)
    });
    let validation = of_each(runs, 1, "validation", Mark::Dots, |run| {
        scores(run, |evaluation| evaluation.accuracy)
    });
    Chart {
        title,
        unit,
        floor: Floor::Zero,
        lines: training.chain(validation).collect(),
        marks: marks(runs),
    }
}

/// Returns the plot of the divergence from a teacher.
fn divergence(runs: &[RunRecord]) -> Chart {
    let training = of_each(runs, 0, "training", Mark::Faint, |run| {
        points(run, |step| step.divergence)
    });
    let validation = of_each(runs, 1, "validation", Mark::Dots, |run| {
        scores(run, |evaluation| evaluation.divergence)
    });
    Chart {
        title: "Divergence from the teacher",
        unit: NATS,
        floor: Floor::Zero,
        lines: training.chain(validation).collect(),
        marks: marks(runs),
    }
}

/// Returns the plot of the recall among the ten nearest texts.
fn recalls(runs: &[RunRecord]) -> Chart {
    let validation = of_each(runs, 1, "validation", Mark::Dots, |run| {
        scores(run, |evaluation| evaluation.recall)
    });
    Chart {
        title: "Recall at 10",
        unit: "share of positives",
        floor: Floor::Zero,
        lines: validation.collect(),
        marks: marks(runs),
    }
}

/// Returns the plot of the loss by kind of token. A model that does not learn to stop shows in the
/// loss of end-of-turn tokens.
fn loss_by_kind(runs: &[RunRecord]) -> Chart {
    let content = of_each(runs, 1, "content", Mark::Dots, |run| {
        scores(run, |evaluation| evaluation.content)
    });
    let ends = of_each(runs, 2, "end of turn", Mark::Line, |run| {
        scores(run, |evaluation| evaluation.end_of_turn)
    });
    Chart {
        title: "Validation loss by kind of token",
        unit: NATS,
        floor: Floor::Lowest,
        lines: content.chain(ends).collect(),
        marks: marks(runs),
    }
}

/// Returns the marks where runs were resumed.
fn marks(runs: &[RunRecord]) -> Vec<Resumed> {
    let of_run = |(color, run): (usize, &RunRecord)| {
        let name = if runs.len() > 1 {
            format!("{}, ", run.name)
        } else {
            String::new()
        };
        let mark = move |step: u64| Resumed {
            words: format!("{name}resumed after step {step}"),
            step: step as f64,
            color,
        };
        resumed_after(run).into_iter().map(mark)
    };
    runs.iter().enumerate().flat_map(of_run).collect()
}

/// Returns a line for each run. A single run has one color per line; several runs have one color
/// each.
fn of_each(
    runs: &[RunRecord],
    color_alone: usize,
    what: &str,
    mark: Mark,
    points: impl Fn(&RunRecord) -> Vec<Point>,
) -> impl Iterator<Item = Line> {
    let is_alone = runs.len() == 1;
    runs.iter()
        .enumerate()
        .map(move |(index, run)| {
            let name = if is_alone {
                what.to_owned()
            } else {
                format!("{}, {what}", run.name)
            };
            let color = if is_alone { color_alone } else { index };
            Line {
                name,
                color,
                dash: index,
                mark,
                points: points(run),
            }
        })
        .filter(|line| !line.points.is_empty())
}

fn memory(runs: &[RunRecord]) -> Chart {
    let peak = runs
        .iter()
        .filter_map(|run| {
            run.metrics
                .steps
                .iter()
                .filter_map(StepLine::memory_bytes)
                .max()
        })
        .max();
    let (unit, size) = if peak.is_some_and(|peak| peak as f64 >= GIB) {
        ("GiB", GIB)
    } else {
        ("MiB", MIB)
    };
    of_steps(runs, "Peak memory of the session", unit, |step| {
        step.memory_bytes().map(|bytes| bytes as f64 / size)
    })
}

fn of_steps(
    runs: &[RunRecord],
    title: &'static str,
    unit: &'static str,
    value: impl Fn(&StepLine) -> Option<f64> + Copy,
) -> Chart {
    let line = |(index, run): (usize, &RunRecord)| {
        let points = points(run, value);
        Line {
            name: run.name.clone(),
            color: index,
            dash: index,
            mark: Mark::Line,
            points,
        }
    };
    Chart {
        title,
        unit,
        floor: Floor::Zero,
        lines: runs.iter().enumerate().map(line).collect(),
        marks: marks(runs),
    }
}

fn points(run: &RunRecord, value: impl Fn(&StepLine) -> Option<f64>) -> Vec<Point> {
    run.metrics
        .steps
        .iter()
        .map(|step| (step.step as f64, value(step)))
        .collect()
}

fn scores(run: &RunRecord, value: impl Fn(&EvaluationLine) -> Option<f64>) -> Vec<Point> {
    run.metrics
        .evaluations
        .iter()
        .map(|evaluation| (evaluation.step as f64, value(evaluation)))
        .collect()
}
