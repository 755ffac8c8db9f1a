//! Inspection of a dataset: columns and rows from the footers of its files, and with a base the
//! lengths of its rows in tokens.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Findings, InspectArgs};
use crate::cli::{Failure, grouped};
use crate::data::convert::{Reading, data_files};
use crate::data::template::{ChatTemplate, Sources};
use crate::data::tokenize::Tokenizer;
use crate::data::{
    Corpus, DataFile, DataSource, Encoder, Limits, TableError, columns, find_files, guessed,
    in_recipe, inspect,
};
use crate::fault::{Exit, Explain, Fault};
use crate::files::{RowCache, cache_folder};
use crate::hub::DatasetPath;
use crate::plan::cached_files;
use crate::report::Terminal;
use crate::run::find_base;
use crate::terms::{Format, Term, TrainOn, Truncation};

/// Length limit that is longer than any row.
const LONGEST: usize = 1 << 30;
/// Lines of the histogram, and characters of its longest bar.
const BINS: usize = 10;
const BAR: usize = 40;

pub(super) fn look(args: &InspectArgs) -> Result<Findings, Failure> {
    let terminal = Terminal::default();
    let (columns_of, cache) = (
        args.columns.iter().cloned().collect(),
        RowCache::from(&cache_folder()),
    );
    let reading = Reading {
        format: args.format,
        columns: &columns_of,
    };
    let path = args.subject.to_string_lossy();
    let paths = if DatasetPath::is_one(&path) {
        cached_files(&path)?
    } else {
        find_files(&path)?
    };
    let files = data_files(&paths, reading, &cache, &|event| terminal.take(&event))?;
    terminal.stop();
    let mut found = Findings::new("dataset", &args.subject);
    let (mut rows, mut all) = (0, Vec::new());
    for file in &files {
        let (of_file, count) = columns(file)?;
        rows += count;
        for column in of_file
            .into_iter()
            .filter(|column| !all.contains(column))
            .collect::<Vec<_>>()
        {
            all.push(column);
        }
    }
    found.tell(
        "files",
        files.len().to_string(),
        json!(
            files
                .iter()
                .map(|file| file.path().display().to_string())
                .collect::<Vec<_>>()
        ),
    );
    found.tell("rows", grouped(rows), json!(rows));
    let value: Vec<_> = all
        .iter()
        .map(|(name, kind)| json!({"name": name, "type": kind}))
        .collect();
    found.tell("columns", all.len().to_string(), json!(value));
    for (name, kind) in &all {
        found.more(format!("{name}: {kind}"));
    }
    let Some((format, names)) = format(args, &files)? else {
        let line = "none that its columns look like: give `--format` and `--columns`, as a recipe \
            has `format` and `columns`";
        found.tell("format", line, json!(null));
        return Ok(found);
    };
    let shown: Vec<(&'static str, String)> = format
        .columns()
        .iter()
        .filter_map(|own| Some((*own, names.get(*own)?.clone())))
        .collect();
    let with = if shown.is_empty() {
        String::new()
    } else {
        format!(", with `columns: {}`", in_recipe(&shown))
    };
    let guessed = if args.format.is_none() && args.columns.is_empty() && shown.is_empty() {
        ", by its columns"
    } else {
        ""
    };
    found.tell(
        "format",
        format!("{format}{with}{guessed}"),
        json!(format.word()),
    );
    found.object["format_columns"] = json!(names);
    let Some(base) = &args.base else {
        found.tell(
            "token_lengths",
            "give a model with `--base` to count tokens",
            json!(null),
        );
        return Ok(found);
    };
    let folder = find_base(Some(base), None)?;
    let source = DataSource {
        files,
        selected: None,
        format,
        columns: names,
        roles: BTreeMap::new(),
        train_on: TrainOn::Assistant,
        system: None,
        labels: None,
    };
    lengths(&encoder(&folder, format)?, source, &mut found)?;
    Ok(found)
}

/// Column names of the format, with those of the file.
type Names = BTreeMap<String, String>;

/// Returns the named format, or the first whose columns exist, or the one that the columns
/// resemble. It comes with the column names that differ from the format's own.
fn format(args: &InspectArgs, files: &[DataFile]) -> Result<Option<(Format, Names)>, Failure> {
    let names: Names = args.columns.iter().cloned().collect();
    let has_names = |format: &Format| {
        names
            .keys()
            .all(|name| format.columns().contains(&name.as_str()))
    };
    if let Some(format) = args.format {
        refuse_names(format, &names)?;
        files.iter().try_for_each(|file| {
            inspect(file, format, &names)
                .map(drop)
                .map_err(|error| with_option(&error))
        })?;
        return Ok(Some((format, names)));
    }
    if names.is_empty() {
        return Ok(guessed(files)?);
    }
    let of_names = Format::WORDS
        .iter()
        .map(|(_, format)| *format)
        .filter(has_names);
    let fits = |format: &Format| {
        files
            .iter()
            .all(|file| inspect(file, *format, &names).is_ok())
    };
    let all: Vec<Format> = of_names.collect();
    if let Some(format) = all.iter().copied().find(fits) {
        return Ok(Some((format, names)));
    }
    let Some(format) = all.first().copied() else {
        let given: Vec<&str> = names.keys().map(String::as_str).collect();
        let fault = Fault::new(format!(
            "--columns: no format has the columns `{}`",
            given.join("`, `")
        ));
        let all = Format::WORDS
            .iter()
            .map(|(_, format)| format!("`{format}` has `{}`", format.columns().join("`, `")));
        let hint = format!(
            "the format's name comes first: {}",
            all.collect::<Vec<_>>().join("; ")
        );
        return Err(Failure::new(Exit::Usage, fault.hint(hint)));
    };
    // Faults in the names are reported for the format that has them.
    files.iter().try_for_each(|file| {
        inspect(file, format, &names)
            .map(drop)
            .map_err(|error| with_option(&error))
    })?;
    Ok(Some((format, names)))
}

fn refuse_names(format: Format, names: &Names) -> Result<(), Failure> {
    let Some(name) = names
        .keys()
        .find(|name| !format.columns().contains(&name.as_str()))
    else {
        return Ok(());
    };
    let expected = format.columns().join("`, `");
    let fault = Fault::new(format!(
        "--columns: format `{format}` has no column `{name}`, it has `{expected}`"
    ));
    Err(Failure::new(
        Exit::Usage,
        fault.hint(format!(
            "the format's name comes first, such as `--columns {}=COLUMN`",
            format.columns()[0]
        )),
    ))
}

/// Converts an error of a column, and names the option that sets it.
fn with_option(error: &TableError) -> Failure {
    let hint = match error {
        TableError::Missing {
            canonical, meant, ..
        } => Some(meant.option_hint(canonical)),
        other => other.hint(),
    };
    let faults = vec![Fault {
        place: None,
        message: error.to_string(),
        hint,
    }];
    Failure {
        exit: error.exit(),
        faults,
    }
}

fn encoder(folder: &std::path::Path, format: Format) -> Result<Encoder, Failure> {
    let tokenizer = Tokenizer::open(folder)?;
    let sources = if format == Format::Chat {
        Sources::choose(None, &tokenizer)?
    } else {
        None
    };
    let started = jiff::Timestamp::now();
    let template = sources
        .map(|sources| ChatTemplate::of(&sources, tokenizer.special(), started))
        .transpose()?;
    if format == Format::Chat && template.is_none() {
        let fault = Fault::new(format!(
            "the base in `{}` has no chat template",
            folder.display()
        ));
        return Err(Failure::new(
            Exit::Input,
            fault.hint("give an instruction-tuned base, or `--format text`"),
        ));
    }
    Ok(Encoder {
        tokenizer,
        template,
    })
}

/// Adds the lengths of rows, and of their trained parts.
fn lengths(encoder: &Encoder, source: DataSource, found: &mut Findings) -> Result<(), Failure> {
    let limits = Limits {
        sequence_len: LONGEST,
        truncation: Truncation::Drop,
    };
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
        "{} tokens in {} rows: {least} to {most}, median {median}, 90 % up to {high}, 99 % up to \
        {highest}",
        grouped(total as u64),
        grouped(rows as u64)
    );
    let value = json!({
        "rows": rows,
        "tokens": total,
        "min": least,
        "median": median,
        "p90": high,
        "p99": highest,
        "max": most,
    });
    found.tell("token_lengths", line, value);
    let width = (most - least + 1).div_ceil(BINS).max(1);
    let bins = (0..BINS)
        .map(|bin| least + bin * width)
        .take_while(|start| *start <= most);
    let counts: Vec<(usize, usize)> = bins
        .map(|start| {
            (
                start,
                lengths
                    .iter()
                    .filter(|length| (start..start + width).contains(length))
                    .count(),
            )
        })
        .collect();
    let largest = counts
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(1)
        .max(1);
    for (start, count) in counts {
        found.more(format!(
            "{start:>6} {} {count}",
            "#".repeat((count * BAR).div_ceil(largest))
        ));
    }
    Ok(())
}
