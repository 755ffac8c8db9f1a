//! Scores of a base and of a trained model, as a table.

use super::{Failure, grouped, print};
use crate::data::visible;
use crate::objective::ClassTable;
use crate::run::{HeadScores, Ranks, ScoreRow, Scores};
use crate::train::Score;

/// Returns the cells of a line.
fn cells(row: &ScoreRow) -> [String; 8] {
    let loss = |score: Option<Score>| score.and_then(|score| score.loss());
    let (base, trained) = (loss(Some(row.base)), loss(row.trained));
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let change = base
        .zip(trained)
        .map(|(base, trained)| format!("{:+.1} %", 100.0 * (trained / base - 1.0)));
    [
        row.set.name.clone(),
        grouped(row.set.rows),
        grouped(row.base.trained_tokens()),
        shown(base, 4),
        shown(base.map(f64::exp), 2),
        shown(trained, 4),
        shown(trained.map(f64::exp), 2),
        change.unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Prints one line per set, one for all sets if there are several, and one for forgetting.
pub(super) fn print_table(scores: &Scores) -> Result<(), Failure> {
    let Scores {
        rows,
        forgotten,
        name,
        ..
    } = scores;
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
        .chain(shown.iter().map(|row| cells(row)))
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

/// Prints how well an embedder finds what belongs to a text, one line per figure.
pub(super) fn print_ranks(ranks: &Ranks) -> Result<(), Failure> {
    let trained = format!("with {}", ranks.name);
    print(format_args!("{:<10}  {:>8}  {trained:>12}", "", "base"))?;
    for (name, base, after) in &ranks.figures {
        let after = after.map_or_else(|| "-".to_owned(), |after| format!("{after:.4}"));
        print(format_args!("{name:<10}  {base:>8.4}  {after:>12}"))?;
    }
    print(format_args!(
        "among the texts of {} rows",
        grouped(ranks.rows as u64)
    ))
}

/// Prints the scores of a score head: a line for each set, with its table of classes below.
pub(super) fn print_head_scores(scores: &HeadScores) -> Result<(), Failure> {
    for (set, score) in &scores.sets {
        let loss = score
            .loss
            .map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
        let figures = score.figures.iter();
        let figures: Vec<String> = figures
            .map(|(name, value)| format!(", {name} {value:.4}"))
            .collect();
        let rows = grouped(set.rows);
        print(format_args!(
            "{}: {rows} rows, loss {loss}{}",
            set.name,
            figures.concat()
        ))?;
        if let Some(table) = &score.confusion {
            print_confusion(table, &scores.names)?;
        }
        if !set.path.is_empty() {
            print(format_args!("{}: {}", set.name, visible(&set.path)))?;
        }
    }
    Ok(())
}

/// Prints how often each class was taken for each; of several labels, a table of no and yes each.
fn print_confusion(table: &ClassTable, names: &[String]) -> Result<(), Failure> {
    let is_of_labels = table.first().is_some_and(|row| row.len() != table.len());
    let name = |index: usize| {
        let known = names.get(index).map(|name| visible(name));
        known.unwrap_or_else(|| format!("LABEL_{index}"))
    };
    let row_name = |index: usize| {
        if is_of_labels {
            let holds = if index.is_multiple_of(2) { "no" } else { "yes" };
            format!("{} {holds}", name(index / 2))
        } else {
            name(index)
        }
    };
    let columns = table.first().map_or(0, Vec::len);
    let heads: Vec<String> = if is_of_labels {
        vec!["no".to_owned(), "yes".to_owned()]
    } else {
        (0..columns).map(name).collect()
    };
    let first = (0..table.len())
        .map(|row| row_name(row).chars().count())
        .fold("true, taken for".len(), usize::max);
    let widths: Vec<usize> = heads
        .iter()
        .map(|head| head.chars().count().max(6))
        .collect();
    let line = |first_cell: &str, cells: Vec<String>| {
        let cells = cells.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("  {cell:>width$}"))
            .collect();
        print(format_args!("  {first_cell:<first$}{}", cells.concat()))
    };
    line("true, taken for", heads.clone())?;
    for (index, row) in table.iter().enumerate() {
        line(
            &row_name(index),
            row.iter().map(|count| grouped(*count)).collect(),
        )?;
    }
    Ok(())
}
