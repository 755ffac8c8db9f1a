//! Scores of a base and of a trained model, as a table or as JSON.

use serde_json::{Value, json};

use super::{Failure, grouped, print};
use crate::data::visible;
use crate::plan::Examined;
use crate::train::Score;

/// Scores on one set of rows.
#[derive(Debug, Clone)]
pub(super) struct ScoreRow {
    pub set: Examined,
    pub base: Score,
    pub trained: Option<Score>,
}

impl ScoreRow {
    /// Returns the scores on all rows together; `None` if there are none.
    pub fn total(rows: &[Self]) -> Option<Self> {
        let and = |left: Self, right: Self| Self {
            set: Examined {
                rows: left.set.rows + right.set.rows,
                trained_rows: left
                    .set
                    .trained_rows
                    .zip(right.set.trained_rows)
                    .map(|(left, right)| left + right),
                ..left.set
            },
            base: left.base.and(right.base),
            trained: left
                .trained
                .zip(right.trained)
                .map(|(left, right)| left.and(right)),
        };
        let total = rows.iter().cloned().reduce(and)?;
        Some(Self {
            set: Examined {
                name: "total".to_owned(),
                path: String::new(),
                ..total.set
            },
            ..total
        })
    }

    fn cells(&self) -> [String; 8] {
        let loss = |score: Option<Score>| score.and_then(|score| score.loss());
        let (base, trained) = (loss(Some(self.base)), loss(self.trained));
        let shown = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let change = base
            .zip(trained)
            .map(|(base, trained)| format!("{:+.1} %", 100.0 * (trained / base - 1.0)));
        [
            self.set.name.clone(),
            grouped(self.set.rows),
            grouped(self.base.trained_tokens()),
            shown(base, 4),
            shown(base.map(f64::exp), 2),
            shown(trained, 4),
            shown(trained.map(f64::exp), 2),
            change.unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// Returns the part of a set in the object for `--json`; `name` is `adapter` or `model`.
pub(super) fn object(row: &ScoreRow, name: &str) -> Value {
    let score = |score: Score| {
        let loss = score.loss();
        json!({
            "loss": loss,
            "perplexity": loss.map(f64::exp),
            "loss_content": score.content(),
            "loss_end_of_turn": score.end_of_turn(),
        })
    };
    json!({
        "name": row.set.name,
        "path": row.set.path,
        "rows": row.set.rows,
        "rows_trained_on": row.set.trained_rows,
        "trained_tokens": row.base.trained_tokens(),
        "base": score(row.base),
        name: row.trained.map(score),
    })
}

/// Prints one line per set, one for all sets if there are several, and one for forgetting.
pub(super) fn print_table(
    rows: &[ScoreRow],
    forgotten: Option<&ScoreRow>,
    name: &str,
) -> Result<(), Failure> {
    let trained = format!("with {name}");
    let heads = [
        "",
        "rows",
        "tokens",
        "base loss",
        "perplexity",
        &trained,
        "perplexity",
        "change",
    ]
    .map(str::to_owned);
    let total = if rows.len() > 1 {
        ScoreRow::total(rows)
    } else {
        None
    };
    let shown: Vec<&ScoreRow> = rows.iter().chain(&total).chain(forgotten).collect();
    let lines: Vec<[String; 8]> = std::iter::once(heads)
        .chain(shown.iter().map(|row| row.cells()))
        .collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    for line in &lines {
        let cells = (1..line.len())
            .map(|column| format!("  {:>width$}", line[column], width = width(column)));
        print(format_args!(
            "{:<width$}{}",
            line[0],
            cells.collect::<String>(),
            width = width(0)
        ))?;
    }
    for row in shown.iter().filter(|row| !row.set.path.is_empty()) {
        print(format_args!("{}: {}", row.set.name, visible(&row.set.path)))?;
    }
    Ok(())
}
