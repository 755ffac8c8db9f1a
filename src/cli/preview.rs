//! `rankine preview`: rows as the model will see them, with their trained parts and the outcome of
//! every row.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, RecipeArgs, grouped, print, row_text};
use crate::data::tokenize::Tokenizer;
use crate::data::{RatedRow, RowCounts, RowRecord, RowStatus, TokenRow, TokenSlice, visible};
use crate::export::{Line, write_ledger};
use crate::fault::{Exit, Fault, revealed};
use crate::plan::{Plan, RunData};
use crate::report::Terminal;
use crate::terms::{Format, ProblemType, RowForm};

#[derive(Debug, Args)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// How many rows to show, spread over the datasets
    #[arg(short = 'n', value_name = "ROWS", default_value_t = 3)]
    rows: usize,
    /// Show one row: its number among all rows in the order in which they are read, from 0
    #[arg(long, value_name = "NUMBER", conflicts_with = "rows")]
    row: Option<u64>,
    /// Write the status of every row to a new Parquet file
    #[arg(long, value_name = "FILE.parquet")]
    ledger: Option<PathBuf>,
}

pub(super) fn preview(args: &PreviewArgs, terminal: &Terminal) -> Result<(), Failure> {
    let plan = args.recipe.plan()?;
    args.ledger.as_deref().map_or(Ok(()), refuse_existing)?;
    crate::device::set_threads(plan.threads);
    let report = |event| terminal.take(&event);
    let data = plan.open_data(&report)?;
    let numbers = chosen(args, &data)?;
    // Show the rows before refusing the run, so that the user sees why.
    let verdict = plan.judge(&data, &report);
    terminal.stop();
    print_rows(&plan, &data, &numbers)?;
    print_ledger(&plan, &data)?;
    if let Some(path) = &args.ledger {
        write(path, &plan, &data, verdict.is_ok())?;
    }
    Ok(verdict?)
}

/// Refuses to overwrite a file. A ledger is easily made again, but the name may be that of a data
/// file.
fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if !path.exists() {
        return Ok(());
    }
    let fault = Fault::new(format!("--ledger: `{}` exists", path.display()));
    Err(Failure::new(
        Exit::Exists,
        fault.hint("name another file, or remove that one"),
    ))
}

fn chosen(args: &PreviewArgs, data: &RunData) -> Result<Vec<u64>, Failure> {
    let (Some(row), rows) = (args.row, data.rows_read()) else {
        return Ok(data.sample(args.rows));
    };
    if row < rows {
        return Ok(vec![row]);
    }
    let last = rows.checked_sub(1).map_or_else(String::new, |last| {
        format!(", expected a number from 0 to {last}")
    });
    Err(Failure::new(
        Exit::Usage,
        Fault::new(format!("--row {row}: there are {rows} rows{last}")),
    ))
}

fn print_rows(plan: &Plan, data: &RunData, numbers: &[u64]) -> Result<(), Failure> {
    if numbers.is_empty() {
        return Ok(());
    }
    print(row_text::legend(&plan.encoder.tokenizer, data.end_ids()))?;
    let palette = row_text::Palette::of_stdout();
    for number in numbers {
        let record = data.record(*number);
        let file = visible(&record.file.display().to_string());
        print(format_args!(
            "\nrow {number} (row {} of `{file}`): {}",
            record.row,
            describe(plan, data, &record)
        ))?;
        let Some(tokens) = record.tokens.filter(|tokens| !tokens.is_empty()) else {
            continue;
        };
        let tokenizer = &plan.encoder.tokenizer;
        if let Some(RatedRow::Pair(halves)) = tokens.rated() {
            print_pair(tokenizer, &halves, &palette)?;
            continue;
        }
        let pieces = crate::data::pieces(tokenizer, &tokens.ids(), &tokens.trained());
        print(row_text::rendered(&pieces?, &palette))?;
    }
    print("")
}

/// Prints the prompt of a pair, and its two completions next to each other.
fn print_pair(
    tokenizer: &Tokenizer,
    halves: &[TokenRow; 2],
    palette: &row_text::Palette,
) -> Result<(), Failure> {
    let [chosen, rejected] = halves;
    let prompt = chosen
        .trained
        .iter()
        .take_while(|trained| !**trained)
        .count();
    let (ids, trained) = (&chosen.ids[..prompt], &chosen.trained[..prompt]);
    print(row_text::rendered(
        &crate::data::pieces(tokenizer, ids, trained)?,
        palette,
    ))?;
    let completion = |row: &TokenRow| {
        let start = prompt.min(row.ids.len());
        crate::data::pieces(tokenizer, &row.ids[start..], &row.trained[start..])
    };
    let (chosen, rejected) = (completion(chosen)?, completion(rejected)?);
    print(row_text::side_by_side(
        ["chosen", "rejected"],
        [&chosen, &rejected],
    ))
}

/// Describes the outcome of a row in one line.
fn describe(plan: &Plan, data: &RunData, record: &RowRecord) -> String {
    let limit = plan.limits.sequence_len;
    let status = match (record.status, record.reason) {
        (RowStatus::Train, _) => "trained on".to_owned(),
        (RowStatus::Validation, _) => "held out for validation".to_owned(),
        (RowStatus::NotSelected, _) => return "not selected by `split` or `max_rows`".to_owned(),
        (RowStatus::TooLong, _) => {
            format!("left out, longer than `training.sequence_len`, {limit}")
        }
        (RowStatus::NoTrainedToken, _) if record.whole_tokens == 0 => {
            "left out, nothing to learn".to_owned()
        }
        (RowStatus::NoTrainedToken, _) => "left out, no trained token".to_owned(),
        (RowStatus::EqualHalves, _) => "left out, chosen and rejected are the same".to_owned(),
        (RowStatus::Duplicate, _) => format!("left out, the same as {}", other(data, record)),
        (RowStatus::NearDuplicate, _) => {
            format!("left out, nearly the same as {}", other(data, record))
        }
        (RowStatus::NearHeldOut, _) => format!(
            "left out, nearly the same as {}, which is only scored",
            other(data, record)
        ),
        (RowStatus::Broken, reason) => {
            format!("left out, broken: {}", revealed(reason.unwrap_or_default()))
        }
    };
    let cut = match record.len() {
        tokens if tokens < record.whole_tokens => {
            format!(", cut from {} tokens", record.whole_tokens)
        }
        _ => String::new(),
    };
    let duplicate = if record.is_duplicate {
        ", like an earlier row"
    } else {
        ""
    };
    let form = match record.tokens.map(|tokens| tokens.form()) {
        Some(RowForm::Rated { desirable: true }) => ", desirable".to_owned(),
        Some(RowForm::Rated { desirable: false }) => ", undesirable".to_owned(),
        Some(form) => {
            let weight = data.loss_weight(record.source, form);
            let is_plain = weight.to_bits() == 1_f32.to_bits();
            let text = || format!(", loss weight {weight}");
            if is_plain { String::new() } else { text() }
        }
        None => String::new(),
    };
    let label = record
        .tokens
        .map_or_else(String::new, |tokens| label(plan, &tokens));
    format!(
        "{status}; {} tokens{}{form}{label}{cut}{duplicate}",
        record.len(),
        if plan.scoring().is_some() {
            String::new()
        } else {
            format!(", {} trained", record.trained_tokens())
        }
    )
}

/// Describes the label of a row, the classes of its words, or the margin of a pair.
fn label(plan: &Plan, row: &TokenSlice) -> String {
    let values = row.values();
    let shown = |value: &f32| value.to_string();
    let (Some(score), false) = (plan.score_head(), values.is_empty()) else {
        return String::new();
    };
    let is_of_classes = score.problem.is_some_and(ProblemType::has_classes);
    let values: Vec<String> = values
        .iter()
        .map(|value| match value {
            class if is_of_classes => visible(&score.name(*class as usize)),
            number => shown(number),
        })
        .collect();
    let what = match row.form() {
        RowForm::Pair { .. } => "margin",
        RowForm::Tagged { .. } => "classes",
        _ => "label",
    };
    format!(", {what} {}", values.join(", "))
}

/// Names the row that another one duplicates.
fn other(data: &RunData, record: &RowRecord) -> String {
    let Some(number) = record.duplicate_of else {
        return "another row".to_owned();
    };
    let other = data.record(number);
    format!(
        "row {number} (row {} of `{}`)",
        other.row,
        visible(&other.file.display().to_string())
    )
}

/// A line of the ledger.
type Count = (&'static str, fn(&RowCounts) -> u64);

const COUNTS: [Count; 13] = [
    ("rows read", |tally| tally.rows),
    ("  not selected", |tally| tally.not_selected),
    ("  kept", |tally| tally.kept()),
    ("    trained on", |tally| tally.train),
    ("    held out for validation", |tally| tally.validation),
    ("  left out", |tally| tally.dropped()),
    ("    too long", |tally| tally.too_long),
    ("    no trained token", |tally| tally.untrained),
    ("    broken", |tally| tally.broken),
    ("of the kept: truncated", |tally| tally.truncated),
    ("of the kept: duplicates", |tally| tally.duplicates),
    ("tokens of the kept", |tally| tally.tokens),
    ("  trained tokens", |tally| tally.trained_tokens),
];

/// The line after `broken` of pairs.
const OF_PAIRS: [Count; 1] = [("    equal halves", |tally| tally.equal_halves)];

/// Lines after that, if the recipe removes duplicates.
const ALIKE: [Count; 3] = [
    ("    equal to an earlier row", |tally| {
        tally.exact_duplicates
    }),
    ("    nearly an earlier row", |tally| tally.near_duplicates),
    ("    nearly a row that is only scored", |tally| {
        tally.near_held_out
    }),
];

fn counts(plan: &Plan) -> Vec<Count> {
    let (of_rows, of_kept) = COUNTS.split_at(
        COUNTS
            .iter()
            .position(|(what, _)| what.starts_with("of the kept"))
            .unwrap_or(0),
    );
    let alike = if plan.alike.leaves_out() {
        &ALIKE[..]
    } else {
        &[]
    };
    let has_pairs = plan
        .sources
        .iter()
        .any(|source| source.format == Format::Preference);
    let of_pairs = if has_pairs { &OF_PAIRS[..] } else { &[] };
    [of_rows, of_pairs, alike, of_kept].concat()
}

/// Prints the ledger, with one column per source and one for all of them.
fn print_ledger(plan: &Plan, data: &RunData) -> Result<(), Failure> {
    let tallies: Vec<RowCounts> = data
        .ledger()
        .sources
        .iter()
        .cloned()
        .chain([data.ledger().total()])
        .collect();
    let names: Vec<(String, String)> = (0..data.ledger().sources.len())
        .map(|source| plan.source_name(source))
        .collect();
    let heads = names.iter().map(|(key, _)| key.as_str()).chain(["total"]);
    let counts = counts(plan);
    let first = counts.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let widths: Vec<usize> = heads
        .clone()
        .zip(&tallies)
        .map(|(head, tally)| head.len().max(grouped(tally.tokens).len()) + 2)
        .collect();
    let line = |what: &str, cells: Vec<String>| {
        let cells = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect::<String>();
        print(format_args!("{what:<first$}{cells}"))
    };
    line("", heads.map(str::to_owned).collect())?;
    for (what, count) in counts {
        line(
            what,
            tallies.iter().map(|tally| grouped(count(tally))).collect(),
        )?;
    }
    for (key, path) in &names {
        print(format_args!("{key}: {}", visible(path)))?;
    }
    data.shares()
        .iter()
        .try_for_each(|share| print(share.describe()))
}

/// Writes the ledger as Parquet. If the run is refused, no row is trained.
fn write(path: &Path, plan: &Plan, data: &RunData, is_accepted: bool) -> Result<(), Failure> {
    let names: Vec<String> = (0..data.ledger().sources.len())
        .map(|source| plan.source_name(source).0)
        .collect();
    let times = if is_accepted {
        data.times_trained(&plan.prepare(data).0)
    } else {
        Vec::new()
    };
    let times_trained = |record: &RowRecord| match (record.status, record.index) {
        (RowStatus::Train, Some(index)) => times.get(index as usize).copied().unwrap_or(0),
        _ => 0,
    };
    let lines = data.records().map(|record| {
        let times_trained = times_trained(&record);
        Line {
            dataset: &names[record.source],
            record,
            times_trained,
        }
    });
    write_ledger(path, lines)?;
    print(format_args!("ledger  {}", path.display()))
}
