//! `rankine classify`: scores rows by an adapter with a score head, and writes classes and
//! probabilities as Parquet.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, json};

use super::convert::columns;
use super::{Failure, grouped, print};
use crate::data::visible;
use crate::fault::{Exit, Fault};
use crate::report::Terminal;
use crate::run::{self, ClassifyOptions, ClassifyResult};

#[derive(Debug, Args)]
pub(super) struct ClassifyArgs {
    /// An adapter with a score head: its folder, that of a run or a checkpoint, or a Hub id that was
    /// pulled; or a model with one
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,
    /// The rows: a file (Parquet; or JSON, JSONL, CSV, TSV), a glob or a folder, with a column
    /// `text` (and `text_pair`), `tokens`, or of a reward model also `messages` or `prompt` and
    /// `completion`
    #[arg(value_name = "FILE")]
    data: String,
    /// The Parquet file to write
    #[arg(long, value_name = "FILE.parquet")]
    out: PathBuf,
    /// The folder of the base, or a Hub id that was pulled; without it the one that the adapter was
    /// trained on
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Which column holds what, such as text=review
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',')]
    columns: Vec<String>,
    /// Tokens of a row that are read; by default all, or as many as the base has positions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sequence_len: Option<u32>,
    /// Replace the output if it exists
    #[arg(long)]
    overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn classify(args: &ClassifyArgs, terminal: &Terminal) -> Result<(), Failure> {
    if args.out.exists() && !args.overwrite {
        let fault = Fault::new(format!("--out: `{}` exists", args.out.display()));
        return Err(Failure::new(
            Exit::Exists,
            fault.hint("name another file, or give `--overwrite`"),
        ));
    }
    let options = ClassifyOptions {
        adapter: args.adapter.clone(),
        base: args.base.clone(),
        data: args.data.clone(),
        columns: columns(&args.columns)?,
        sequence_len: args.sequence_len.map(|tokens| tokens as usize),
        out: args.out.clone(),
    };
    let result = run::classify(&options, &|event| terminal.take(&event))?;
    terminal.stop();
    if args.json {
        return print(object(args, &result));
    }
    print_lines(args, &result)
}

fn object(args: &ClassifyArgs, result: &ClassifyResult) -> serde_json::Value {
    let counts: Map<String, serde_json::Value> = result
        .counts
        .iter()
        .map(|(name, count)| (name.clone(), json!(count)))
        .collect();
    json!({
        "out": args.out.display().to_string(),
        "rows": result.rows,
        "left_out": result.left_out,
        "counts": counts,
    })
}

fn print_lines(args: &ClassifyArgs, result: &ClassifyResult) -> Result<(), Failure> {
    let left_out = match result.left_out {
        0 => String::new(),
        rows => format!(
            ", {} not scored, see the column `error`",
            grouped(rows as u64)
        ),
    };
    print(format_args!(
        "{}: {} rows{left_out}",
        args.out.display(),
        grouped(result.rows as u64)
    ))?;
    for (name, count) in &result.counts {
        print(format_args!("  {}: {}", visible(name), grouped(*count)))?;
    }
    Ok(())
}
