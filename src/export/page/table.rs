//! Tables that compare runs, with a row per fact and a column per run. Differences come first and
//! are marked; equal values are shown once.

use std::collections::HashMap;

use super::RunRecord;
use super::html::Html;

/// A fact with its value in each run; `None` for a run without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableRow {
    /// The name of the fact.
    pub name: String,
    /// One value per run, in the order of the runs.
    pub values: Vec<Option<String>>,
}

impl TableRow {
    fn differs(&self) -> bool {
        self.values.iter().any(|value| *value != self.values[0])
    }
}

/// Returns the rows of all facts in any run, in order of first occurrence.
pub(super) fn rows(
    runs: &[RunRecord],
    of: impl Fn(&RunRecord) -> Vec<(String, String)>,
) -> Vec<TableRow> {
    let (mut rows, mut places) = (Vec::new(), HashMap::new());
    for (column, run) in runs.iter().enumerate() {
        for (name, value) in of(run) {
            let place = *places.entry(name.clone()).or_insert_with(|| {
                rows.push(TableRow {
                    name,
                    values: vec![None; runs.len()],
                });
                rows.len() - 1
            });
            rows[place].values[column] = Some(value);
        }
    }
    rows
}

/// How values are formatted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// As prose.
    Words,
    /// As code.
    Code,
}

/// Writes the rows as they are, with a column per run.
pub(super) fn plain(html: &mut Html, runs: &[RunRecord], rows: &[TableRow]) {
    framed(html, runs, |body| {
        for row in rows {
            cells(body, row, Setting::Words, "");
        }
    });
}

/// Writes the rows that differ, followed by the others.
pub(super) fn compared(html: &mut Html, runs: &[RunRecord], rows: &[TableRow]) {
    framed(html, runs, |body| {
        let (differ, same): (Vec<&TableRow>, Vec<&TableRow>) =
            rows.iter().partition(|row| row.differs());
        for row in differ {
            cells(body, row, Setting::Code, "differs");
        }
        if runs.len() > 1 && !same.is_empty() {
            let columns = (runs.len() + 1).to_string();
            body.element("tr", &[("class", "between")], |row| {
                row.words("th", &[("colspan", &columns)], "The same in all runs");
            });
        }
        for row in same {
            once(body, row);
        }
    });
}

/// Writes a table that scrolls on a narrow page. The names of runs are above it if there are
/// several.
fn framed(html: &mut Html, runs: &[RunRecord], fill: impl FnOnce(&mut Html)) {
    html.element("div", &[("class", "wide")], |frame| {
        frame.element("table", &[], |table| {
            if runs.len() > 1 {
                table.element("thead", &[], |head| {
                    head.element("tr", &[], |row| heads(row, runs));
                });
            }
            table.element("tbody", &[], fill);
        });
    });
}

fn heads(html: &mut Html, runs: &[RunRecord]) {
    html.words("th", &[], "");
    for run in runs {
        html.words("th", &[("scope", "col")], &run.name);
    }
}

fn cells(html: &mut Html, row: &TableRow, setting: Setting, class: &str) {
    html.element("tr", &[("class", class)], |html| {
        let sign = if class.is_empty() { "" } else { "≠ " };
        html.element("th", &[("scope", "row")], |head| {
            head.breakable(&format!("{sign}{}", row.name));
        });
        for value in &row.values {
            html.element("td", &[], |cell| said(cell, value.as_deref(), setting));
        }
    });
}

fn once(html: &mut Html, row: &TableRow) {
    let columns = row.values.len().to_string();
    html.element("tr", &[], |html| {
        html.element("th", &[("scope", "row")], |head| head.breakable(&row.name));
        html.element("td", &[("colspan", &columns)], |cell| {
            said(cell, row.values[0].as_deref(), Setting::Code);
        });
    });
}

fn said(cell: &mut Html, value: Option<&str>, setting: Setting) {
    match (value, setting) {
        (None, _) => cell.text("–"),
        (Some(value), Setting::Words) => cell.text(value),
        (Some(value), Setting::Code) => cell.words("code", &[], value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(count: usize) -> Vec<RunRecord> {
        (0..count)
            .map(|index| RunRecord {
                name: format!("run{index}"),
                ..RunRecord::default()
            })
            .collect()
    }

    fn table(runs: &[RunRecord]) -> String {
        let things = |run: &RunRecord| {
            let of_first = (run.name == "run0").then(|| ("only".to_owned(), "x".to_owned()));
            [
                ("seed".to_owned(), "42".to_owned()),
                ("r".to_owned(), run.name.clone()),
            ]
            .into_iter()
            .chain(of_first)
            .collect()
        };
        let mut html = Html::default();
        compared(&mut html, runs, &rows(runs, things));
        html.finish()
    }

    #[test]
    fn what_differs_comes_first_and_is_marked() {
        let table = table(&runs(2));
        let place = |part: &str| {
            table
                .find(part)
                .unwrap_or_else(|| panic!("{part} is not in {table}"))
        };
        let order = [
            "≠ r<",
            "<code>run0</code>",
            "<code>run1</code>",
            "≠ only<",
            "–",
            "The same in all runs",
            ">seed<",
            "<code>42</code>",
        ];
        assert!(order.map(place).is_sorted(), "{table}");
        assert_eq!(table.matches("42").count(), 1);
    }

    #[test]
    fn one_run_differs_from_nothing() {
        let table = table(&runs(1));
        assert!(
            !table.contains('≠') && !table.contains("The same") && !table.contains("<thead"),
            "{table}"
        );
    }
}
