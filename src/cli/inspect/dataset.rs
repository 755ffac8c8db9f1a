//! A dataset: columns and rows from the footers of its files, and with a base the lengths of its rows in tokens.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Found, InspectArgs};
use crate::cli::base::find_base;
use crate::cli::{Failure, grouped};
use crate::data::template::ChatTemplate;
use crate::data::tokenize::Tokenizer;
use crate::data::{Corpus, Encoder, Limits, Source, columns, find_files, inspect};
use crate::fault::{Exit, Fault};
use crate::files::cache_folder;
use crate::terms::{Format, Term, TrainOn, Truncation};

/// Longer than any row.
const LONGEST: usize = 1 << 30;
/// Lines of the histogram, and characters of its longest bar.
const BINS: usize = 10;
const BAR: usize = 40;

pub(super) fn look(args: &InspectArgs) -> Result<Found, Failure> {
    let files = find_files(&args.subject.to_string_lossy())?;
    let mut found = Found::new("dataset", &args.subject);
    let (mut rows, mut all) = (0, Vec::new());
    for file in &files {
        let (of_file, count) = columns(file)?;
        rows += count;
        for column in of_file.into_iter().filter(|column| !all.contains(column)).collect::<Vec<_>>() {
            all.push(column);
        }
    }
    found.tell("files", files.len().to_string(), json!(files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>()));
    found.tell("rows", grouped(rows), json!(rows));
    let value: Vec<_> = all.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
    found.tell("columns", all.len().to_string(), json!(value));
    for (name, kind) in &all {
        found.more(format!("{name}: {kind}"));
    }
    let names = BTreeMap::new();
    let fits = |format: &Format| files.iter().all(|file| inspect(file, *format, &names).is_ok());
    let format = args.format.or_else(|| Format::WORDS.iter().map(|(_, format)| *format).find(fits));
    let Some(format) = format else {
        found.tell("format", "none that is known: a recipe names the columns in `columns`", json!(null));
        return Ok(found);
    };
    let guessed = if args.format.is_none() { ", by its columns" } else { "" };
    found.tell("format", format!("{format}{guessed}"), json!(format.word()));
    let Some(base) = &args.base else {
        found.tell("token_lengths", "give a model with `--base` to count tokens", json!(null));
        return Ok(found);
    };
    let folder = find_base(Some(base), None)?;
    let source = Source { files, format, columns: names, train_on: TrainOn::Assistant, system: None, tables: BTreeMap::new() };
    lengths(&encoder(&folder, format)?, source, &mut found)?;
    Ok(found)
}

fn encoder(folder: &std::path::Path, format: Format) -> Result<Encoder, Failure> {
    let tokenizer = Tokenizer::open(folder)?;
    let source = tokenizer.chat_template().filter(|_| format == Format::Chat);
    let template = source.map(|source| ChatTemplate::new(source, tokenizer.special(), jiff::Timestamp::now())).transpose()?;
    if format == Format::Chat && template.is_none() {
        let fault = Fault::new(format!("the base in `{}` has no chat template", folder.display()));
        return Err(Failure::new(Exit::Input, fault.hint("give an instruction-tuned base, or `--format text`")));
    }
    Ok(Encoder { tokenizer, template })
}

/// Lengths of rows, and of what of them is trained.
fn lengths(encoder: &Encoder, source: Source, found: &mut Found) -> Result<(), Failure> {
    let limits = Limits { sequence_len: LONGEST, truncation: Truncation::Drop };
    let corpus = Corpus::open(&[source], encoder, &limits, &cache_folder(), &|_| {})?;
    let mut lengths: Vec<usize> = (0..corpus.len()).map(|row| corpus.row(row).len()).collect();
    lengths.sort_unstable();
    let (Some(least), Some(most)) = (lengths.first().copied(), lengths.last().copied()) else {
        found.tell("token_lengths", "no row can be trained on", json!(null));
        return Ok(());
    };
    let at = |share: f64| lengths[((lengths.len() - 1) as f64 * share) as usize];
    let (total, rows) = (lengths.iter().sum::<usize>(), lengths.len());
    let [median, high, highest] = [at(0.5), at(0.9), at(0.99)];
    let line = format!(
        "{} tokens in {} rows: {least} to {most}, median {median}, 90 % up to {high}, 99 % up to {highest}",
        grouped(total as u64),
        grouped(rows as u64)
    );
    let value = json!({"rows": rows, "tokens": total, "min": least, "median": median, "p90": high, "p99": highest, "max": most});
    found.tell("token_lengths", line, value);
    let width = (most - least + 1).div_ceil(BINS).max(1);
    let bins = (0..BINS).map(|bin| least + bin * width).take_while(|start| *start <= most);
    let counts: Vec<(usize, usize)> =
        bins.map(|start| (start, lengths.iter().filter(|length| (start..start + width).contains(length)).count())).collect();
    let largest = counts.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (start, count) in counts {
        found.more(format!("{start:>6} {} {count}", "#".repeat((count * BAR).div_ceil(largest))));
    }
    Ok(())
}
