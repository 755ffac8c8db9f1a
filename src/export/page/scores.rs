//! The results of `rankine eval` over time: the base and the trained model, set by set.

use std::io::{self, BufRead};

use serde_json::Value;

use super::axis::with_groups;
use super::facts::{change, moment};
use super::html::Html;
use super::{RunRecord, table};

/// A line of `eval.jsonl`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredRun {
    /// The time of the evaluation.
    pub at: String,
    /// The scores of each set of rows; sets of other text come last.
    pub sets: Vec<ScoredSet>,
}

/// The scores on one set of rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredSet {
    /// The name of the set.
    pub name: String,
    /// The number of rows.
    pub rows: u64,
    /// Loss of the base, in nats per trained token.
    pub base: Option<f64>,
    /// Loss of the trained model.
    pub trained: Option<f64>,
}

impl ScoredRun {
    /// Reads all lines; invalid ones are left out.
    ///
    /// # Errors
    /// The reader fails. Its content is never an error.
    pub fn read(reader: impl BufRead) -> io::Result<Vec<Self>> {
        let mut runs = Vec::new();
        for line in reader.split(b'\n') {
            runs.extend(
                serde_json::from_slice::<Value>(&line?)
                    .ok()
                    .and_then(|line| Self::of(&line)),
            );
        }
        Ok(runs)
    }

    fn of(line: &Value) -> Option<Self> {
        let (at, sets) = (
            line.get("at")?.as_str()?.to_owned(),
            line.get("sets")?.as_array()?,
        );
        let others = line.get("forgetting").filter(|other| other.is_object());
        Some(Self {
            at,
            sets: sets
                .iter()
                .chain(others)
                .filter_map(ScoredSet::of)
                .collect(),
        })
    }
}

impl ScoredSet {
    fn of(set: &Value) -> Option<Self> {
        let loss = |of: &str| {
            set.get(of)?
                .get("loss")?
                .as_f64()
                .filter(|loss| loss.abs() < 1e300)
        };
        let (name, rows) = (
            set.get("name")?.as_str()?.to_owned(),
            set.get("rows")?.as_u64()?,
        );
        Some(Self {
            name,
            rows,
            base: loss("base"),
            trained: loss("adapter").or_else(|| loss("model")),
        })
    }

    fn words(&self) -> String {
        let told = |loss: f64| format!("{loss:.4}");
        match (self.base, self.trained) {
            (Some(base), Some(trained)) => {
                format!("{base:.4} → {trained:.4} ({})", change(base, trained))
            }
            (base, trained) => base
                .or(trained)
                .map_or_else(|| "not finite".to_owned(), told),
        }
    }
}

/// Writes the scores; nothing if there are none.
pub(super) fn scores(html: &mut Html, runs: &[RunRecord]) {
    let rows = table::rows(runs, of_run);
    if rows.is_empty() {
        return;
    }
    html.element("section", &[("class", "scores")], |section| {
        section.words("h2", &[], "Scores");
        let words = "What `rankine eval` found, each time with the adapter or model as it was: \
            loss of the base → after training, nats per trained token.";
        section.words("p", &[("class", "note")], words);
        table::plain(section, runs, &rows);
    });
}

fn of_run(run: &RunRecord) -> Vec<(String, String)> {
    let of_time = |scored: &ScoredRun| {
        let at = moment(&scored.at);
        let set = |set: &ScoredSet| {
            (
                format!(
                    "{} ({} rows), {at}",
                    set.name,
                    with_groups(&set.rows.to_string())
                ),
                set.words(),
            )
        };
        scored.sets.iter().map(set).collect::<Vec<_>>()
    };
    run.evaluations.iter().flat_map(of_time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_shown() {
        let line = concat!(
            r#"{"at":"2026-11-21T10:58:08Z","#,
            r#""sets":[{"name":"x","rows":1200,"base":{"loss":4.0},"adapter":{"loss":3.0}}],"#,
            r#""forgetting":{"name":"general","rows":2,"#,
            r#""base":{"loss":1.0},"adapter":{"loss":null}}}"#,
        );
        let evaluations = ScoredRun::read(format!("{line}\n{{\"torn\n[]\n\n").as_bytes())
            .expect("memory can be read");
        let run = RunRecord {
            evaluations,
            ..RunRecord::default()
        };
        let mut html = Html::default();
        scores(&mut html, &[run]);
        let html = html.finish().replace("<wbr/>", "");
        for part in [
            "x (1,200 rows), 2026-11-21 10:58:08 UTC",
            "4.0000 → 3.0000 (−25.0 %)",
            "general (2 rows)",
            ">1.0000<",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        let mut none = Html::default();
        scores(&mut none, &[RunRecord::default()]);
        assert_eq!(none.finish(), "");
    }
}
