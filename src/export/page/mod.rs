//! Writes a report of a run, or of several side by side, as one self-contained HTML page: no
//! script, no font, no picture from elsewhere.
//!
//! It turns plain data into text, which is the same for the same run.

mod axis;
mod chart;
mod charts;
mod facts;
mod html;
mod ledger;
mod line;
mod metrics;
mod recipe;
mod samples;
mod scores;
mod table;
mod warnings;

use axis::with_groups;
pub use metrics::{EvaluationLine, Metrics, StepLine};
pub(super) use recipe::flatten;
pub use samples::Sample;
pub use scores::ScoredRun;

use std::fmt::Write;

use serde_json::{Map, Value};

use self::html::Html;

/// The beginning of a page, by which our pages are told from other files.
pub const PAGE_BEGINS: &str = "<!DOCTYPE html>\n<!-- written by rankine report -->\n";
const STYLE: &str = include_str!("style.css");
/// The content security policy: nothing is fetched and nothing is executed, whatever the page
/// contains.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A run as read from its folder.
#[derive(Debug, Clone, Default)]
pub struct RunRecord {
    /// Its name on the page.
    pub name: String,
    /// Its lock, without paths on the machine.
    pub lock: Map<String, Value>,
    /// The metrics of its steps.
    pub metrics: Metrics,
    /// The texts that it generated.
    pub samples: Vec<Sample>,
    /// The results of `rankine eval`.
    pub evaluations: Vec<ScoredRun>,
    /// Its progress.
    pub progress: Progress,
    /// Seconds of training, if a checkpoint records them.
    pub seconds: Option<f64>,
    /// Files that it wrote, with their hashes.
    pub written: Vec<(String, String)>,
    /// Notes from reading its folder.
    pub notes: Vec<String>,
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Progress {
    /// All steps were taken.
    Finished,
    /// A process is working on it.
    Running,
    /// It was stopped.
    #[default]
    Unfinished,
}

/// Returns the page about these runs.
pub fn page(runs: &[RunRecord]) -> String {
    let mut html = Html::default();
    html.constant(PAGE_BEGINS);
    html.element("html", &[("lang", "en")], |html| {
        html.element("head", &[], |head| self::head(head, &title(runs)));
        html.element("body", &[], |body| {
            body.element("main", &[], |main| sections(main, runs));
        });
    });
    html.finish()
}

fn title(runs: &[RunRecord]) -> String {
    match runs {
        [run] => run.name.clone(),
        runs => format!("{} runs side by side", runs.len()),
    }
}

fn head(head: &mut Html, title: &str) {
    head.empty("meta", &[("charset", "utf-8")]);
    head.empty(
        "meta",
        &[
            ("http-equiv", "Content-Security-Policy"),
            ("content", POLICY),
        ],
    );
    head.empty(
        "meta",
        &[
            ("name", "viewport"),
            ("content", "width=device-width, initial-scale=1"),
        ],
    );
    head.words("title", &[], &format!("{title}: report of training"));
    head.element("style", &[], |style| style.constant(STYLE));
}

fn sections(main: &mut Html, runs: &[RunRecord]) {
    main.element("header", &[], |header| {
        header.words("p", &[("class", "kind")], "Report of training");
        header.words("h1", &[], &title(runs));
        facts::summaries(header, runs);
    });
    warnings::warnings(main, runs);
    facts::facts(main, runs);
    charts::charts(main, runs);
    samples::samples(main, runs);
    scores::scores(main, runs);
    ledger::ledger(main, runs);
    recipe::recipe(main, runs);
    recipe::hashes(main, runs);
    let version = env!("CARGO_PKG_VERSION");
    main.element("footer", &[], |footer| {
        footer.words(
            "p",
            &[],
            &format!("Written by rankine {version} from what each run left in its folder."),
        );
    });
}

/// Returns a value of a lock in words: text as it is, anything else as JSON.
fn said(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Joins words to a list.
fn listed(words: impl IntoIterator<Item = String>) -> String {
    words
        .into_iter()
        .enumerate()
        .fold(String::new(), |mut list, (index, word)| {
            write!(list, "{}{word}", if index > 0 { ", " } else { "" })
                .expect("a string takes every text");
            list
        })
}
