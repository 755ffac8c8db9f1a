//! `rankine convert`: converts rows of other formats to a Parquet file for a recipe.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::merge::{LEFTOVER, interrupt};
use super::{Failure, grouped, print};
use crate::data::convert::{ColumnFound, ConvertRequest, Converted, convert as write_parquet};
use crate::fault::{Exit, Fault};
use crate::files::remove_leftovers;
use crate::report::{Terminal, peak_memory_bytes};
use crate::terms::{Format, Term};

#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// JSON arrays, JSONL, CSV or TSV with a header, texts, Parquet of another shape, or folders of
    /// them; each may be packed as .gz or .zst
    #[arg(value_name = "IN", required = true)]
    sources: Vec<PathBuf>,
    /// The Parquet file, which may not exist yet
    #[arg(long, value_name = "FILE.parquet")]
    out: PathBuf,
    /// The format of the rows (text, completion, instruction or chat), where their columns do not
    /// tell it
    #[arg(long, value_parser = format)]
    format: Option<Format>,
    /// Which column holds what, such as prompt=question,completion=answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',')]
    columns: Vec<String>,
    /// Rows that may be left out because they are wrong
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_dropped: u64,
    /// The license of the rows, in place of the one that is stated beside them
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Replace the output if it exists
    #[arg(long)]
    overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn format(word: &str) -> Result<Format, String> {
    let words: Vec<&str> = Format::WORDS.iter().map(|(word, _)| *word).collect();
    Format::parse(word).ok_or_else(|| format!("expected one of {}", words.join(", ")))
}

pub(super) fn convert(args: &ConvertArgs, terminal: &Terminal) -> Result<(), Failure> {
    let started = Instant::now();
    let order = ConvertRequest {
        sources: args.sources.clone(),
        out: args.out.clone(),
        format: args.format,
        columns: columns(&args.columns)?,
        max_dropped: args.max_dropped,
        license: args.license.clone(),
    };
    check_paths(args)?;
    let above = args
        .out
        .parent()
        .filter(|above| !above.as_os_str().is_empty())
        .unwrap_or(std::path::Path::new("."));
    remove_leftovers(&[above], LEFTOVER)?;
    let interrupt = interrupt(&args.out)?;
    let converted = write_parquet(&order, &interrupt, &|event| terminal.take(&event));
    terminal.stop();
    let converted = converted?;
    converted
        .notes
        .iter()
        .for_each(|note| terminal.say(&format!("note: {}", crate::fault::printable(note))));
    if args.json {
        return print(object(args, &converted, started.elapsed().as_secs_f64()));
    }
    print_lines(args, &converted)
}

pub(super) fn columns(words: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut columns = BTreeMap::new();
    for word in words {
        let (name, column) = pair(word)?;
        if let Some(other) = columns.insert(name.clone(), column.clone()) {
            let fault = Fault::new(format!(
                "--columns: `{name}` is given twice, as `{other}` and as `{column}`"
            ));
            return Err(Failure::new(Exit::Usage, fault.hint("give it once")));
        }
    }
    Ok(columns)
}

fn pair(word: &str) -> Result<(String, String), Failure> {
    let split = word
        .split_once('=')
        .filter(|(name, column)| !name.is_empty() && !column.is_empty());
    let refused = || {
        let fault = Fault::new(format!("--columns: expected NAME=COLUMN, found `{word}`"));
        Failure::new(
            Exit::Usage,
            fault.hint("such as `--columns prompt=question,completion=answer`"),
        )
    };
    split
        .map(|(name, column)| (name.to_owned(), column.to_owned()))
        .ok_or_else(refused)
}

/// Refuses an output that exists or is a source, and sources that do not exist.
fn check_paths(args: &ConvertArgs) -> Result<(), Failure> {
    if let Some(missing) = args.sources.iter().find(|source| !source.exists()) {
        let fault = Fault::new(format!("`{}` does not exist", missing.display()));
        return Err(Failure::new(Exit::NoInput, fault.hint("correct the path")));
    }
    let out = args.out.canonicalize().ok();
    let is_source = |source: &PathBuf| out.is_some() && source.canonicalize().ok() == out;
    if args.sources.iter().any(is_source) {
        let fault = Fault::new(format!(
            "`{}` is both a source and the output",
            args.out.display()
        ));
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("choose another `--out`"),
        ));
    }
    let is_there = args.out.symlink_metadata().is_ok();
    if args.out.is_dir() || (is_there && !args.overwrite) {
        let fault = Fault::new(format!("`{}` exists", args.out.display()));
        return Err(Failure::new(
            Exit::Exists,
            fault.hint("choose another `--out`, or replace a file with `--overwrite`"),
        ));
    }
    Ok(())
}

fn object(args: &ConvertArgs, converted: &Converted, seconds: f64) -> Value {
    let column = |column: &ColumnFound| {
        json!({
            "name": column.name,
            "from": column.source,
            "holds": column.holds,
            "json_text": column.is_json,
            "read": column.is_read,
            "nulls": column.nulls,
            "missing": column.missing,
        })
    };
    json!({
        "out": args.out.display().to_string(),
        "rows": converted.rows,
        "dropped": converted.dropped,
        "format": converted.proposal.as_ref().map(|proposal| proposal.format.word()),
        "columns": converted.columns.iter().map(column).collect::<Vec<_>>(),
        "source_blake3": converted.source_hash.to_string(),
        "license": converted.license,
        "source_bytes": converted.source_bytes,
        "bytes": converted.bytes,
        "notes": converted.notes,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    })
}

fn print_lines(args: &ConvertArgs, converted: &Converted) -> Result<(), Failure> {
    let Converted {
        rows,
        dropped,
        source_bytes,
        bytes,
        source_hash,
        ..
    } = converted;
    let left_out = if *dropped > 0 {
        format!(", {} left out", grouped(*dropped))
    } else {
        String::new()
    };
    let (read, written) = (HumanBytes(*source_bytes), HumanBytes(*bytes));
    let unit = if *rows == 1 { "row" } else { "rows" };
    print(format_args!(
        "{}  {} {unit}{left_out}, {read} became {written}",
        args.out.display(),
        grouped(*rows)
    ))?;
    for column in &converted.columns {
        print(format_args!(
            "  {}",
            line(column, converted.proposal.is_some())
        ))?;
    }
    let license = converted
        .license
        .as_deref()
        .unwrap_or("not stated; `--license ID` puts one into the file");
    print(format_args!("license        {license}"))?;
    print(format_args!("source_blake3  {source_hash}"))?;
    match &converted.proposal {
        Some(proposal) => print(format_args!(
            "in a recipe    path: {}, format: {}",
            args.out.display(),
            proposal.format
        )),
        None => print(
            "in a recipe    no format is known by these columns: name one with `--format` and \
            `--columns`",
        ),
    }
}

/// Describes a column in words.
fn line(column: &ColumnFound, has_format: bool) -> String {
    let ColumnFound {
        name,
        source,
        holds,
        ..
    } = column;
    let from = match source.as_str() {
        "" => ", made of a question and an answer".to_owned(),
        source if source == name => String::new(),
        source => format!(", `{source}` in the source"),
    };
    let form = if column.is_json { ", as JSON text" } else { "" };
    let count = |count: u64, what: &str| {
        if count > 0 {
            format!(", {what} in {}", grouped(count))
        } else {
            String::new()
        }
    };
    let gaps = count(column.nulls, "null") + &count(column.missing, "missing");
    let unread = if has_format && !column.is_read {
        "; not read by the format"
    } else {
        ""
    };
    crate::fault::printable(&format!("{name}: {holds}{form}{from}{gaps}{unread}"))
}
