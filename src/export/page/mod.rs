//! A run, or several side by side, as one page of HTML that needs nothing else: no script, no font,
//! no picture from elsewhere.
//!
//! Plain data goes in, text comes out, the same for the same run.

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

pub(super) use axis::with_groups;
pub use metrics::{EvaluationLine, Metrics, StepLine};
pub(super) use recipe::flatten;
pub use samples::Sample;
pub use scores::ScoredRun;

use std::fmt::Write;

use serde_json::{Map, Value};

use self::html::Html;

/// A page begins with this; by it a page of ours is told from other files.
pub const PAGE_BEGINS: &str = "<!DOCTYPE html>\n<!-- written by rankine report -->\n";
const STYLE: &str = include_str!("style.css");
/// Nothing is fetched and nothing runs, whatever the page holds.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A run as its folder tells it.
#[derive(Debug, Clone, Default)]
pub struct RunRecord {
    /// What it is called on the page.
    pub name: String,
    /// What it depends on, without places of the machine.
    pub lock: Map<String, Value>,
    /// What happened at its steps.
    pub metrics: Metrics,
    /// What it generated.
    pub samples: Vec<Sample>,
    /// What `rankine eval` said of it.
    pub evaluations: Vec<ScoredRun>,
    /// How far it is.
    pub progress: Progress,
    /// Seconds of training, if a checkpoint says.
    pub seconds: Option<f64>,
    /// Files that it left, with the hash of each.
    pub written: Vec<(String, String)>,
    /// What was noticed while its folder was read.
    pub notes: Vec<String>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Progress {
    /// It took all its steps.
    Finished,
    /// A process is at work on it.
    Running,
    /// It was stopped.
    #[default]
    Unfinished,
}

/// The page about these runs.
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
            &format!(
                "Written by rankine {version} from what each run left in \
        its folder."
            ),
        );
    });
}

/// A value of a lock in words: text as it is, anything else as JSON.
fn said(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Words in a list.
fn listed(words: impl IntoIterator<Item = String>) -> String {
    words
        .into_iter()
        .enumerate()
        .fold(String::new(), |mut list, (index, word)| {
            write!(list, "{}{word}", if index > 0 { ", " } else { "" }).expect(
                "a string takes every \
        text",
            );
            list
        })
}
