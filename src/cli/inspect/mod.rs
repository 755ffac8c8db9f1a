//! `rankine inspect`: describes a model, an adapter, a run or a dataset from its headers and
//! configs, without loading weights.

mod adapter;
mod dataset;
mod model;
mod run;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, print};
use crate::data::convert::is_convertible;
use crate::data::{Content, SourceError, TableError, find_files};
use crate::fault::{Exit, Fault};
use crate::files::NotFolder;
use crate::hub::DatasetPath;
use crate::hub::stores::is_stored_name;
use crate::model::is_base;
use crate::plan::hub_id;
use crate::run::find_base;
use crate::terms::{Format, Term};
use crate::train::RunFolder;

const EXPECTED: &str = "give the folder of a model, an adapter or a run, or data files";

/// What `--json` prints is one object. `kind` is `model`, `adapter`, `run` or `dataset`, `path` is
/// where it is; the other keys are those of the lines: of a model `parameters`, `tensors`,
/// `projections`, `license`, `chat_template`; of an adapter `modules` with norm and effective rank
/// of each; of a run `recipe`, `state` and `result`; of a dataset `columns`, `rows`, `format`,
/// `format_columns` and `token_lengths`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The folder of a model, of an adapter, of a run or of a checkpoint, a Hub id that was pulled;
    /// or a Parquet file, a glob or a folder of them, or `hf://datasets/owner/name` that was pulled
    #[arg(value_name = "MODEL|ADAPTER|RUN|DATASET")]
    subject: PathBuf,
    /// Of a dataset: the model whose tokenizer and chat template count its tokens
    #[arg(long, value_name = "DIR|ID")]
    base: Option<PathBuf>,
    /// Of a dataset: the shape of its rows, `text`, `completion`, `instruction`, `chat`,
    /// `preference` or `unpaired`; without it, the one whose columns are there
    #[arg(long, value_parser = parse_format)]
    format: Option<Format>,
    /// Of a dataset: the file's names of the format's columns, such as
    /// `prompt=question,completion=answer`; without it, those that its columns look like
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = parse_column)]
    columns: Vec<(String, String)>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_format(word: &str) -> Result<Format, String> {
    Format::parse(word).ok_or_else(|| {
        "expected `text`, `completion`, `instruction`, `chat`, `preference` or `unpaired`"
            .to_owned()
    })
}

fn parse_column(word: &str) -> Result<(String, String), String> {
    let pair = word
        .split_once('=')
        .filter(|(name, column)| !name.is_empty() && !column.is_empty());
    let (name, column) = pair.ok_or(
        "expected the format's name of a column and the file's, such as `prompt=question`",
    )?;
    Ok((name.trim().to_owned(), column.to_owned()))
}

/// Facts about the subject, for a person and for a program.
struct Findings {
    /// Lines, each with a name and a description.
    lines: Vec<(String, String)>,
    object: Value,
}

impl Findings {
    fn new(kind: &str, path: &Path) -> Self {
        let (shown, object) = (
            path.display().to_string(),
            json!({"kind": kind, "path": path.display().to_string()}),
        );
        Self {
            lines: vec![(kind.to_owned(), shown)],
            object,
        }
    }

    /// Adds a line, and its value under a key.
    fn tell(&mut self, key: &str, line: impl Into<String>, value: Value) {
        self.lines.push((key.replace('_', " "), line.into()));
        self.object[key] = value;
    }

    /// Adds a further line to the last one.
    fn more(&mut self, line: impl Into<String>) {
        self.lines.push((String::new(), line.into()));
    }
}

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let found = look(args)?;
    if args.json {
        return print(found.object);
    }
    let width = found
        .lines
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    found
        .lines
        .iter()
        .try_for_each(|(name, line)| print(format!("{name:<width$}  {line}").trim_end()))
}

/// Recognizes the kind of subject and inspects it.
fn look(args: &InspectArgs) -> Result<Findings, Failure> {
    let path = &args.subject;
    let written = path.to_string_lossy();
    if DatasetPath::is_one(&written) {
        return dataset::look(args);
    }
    if path.is_dir() {
        return match kind_of(path) {
            Some(kind) => kind.look(path),
            None if find_files(&written).is_ok() => dataset::look(args),
            None => Err(unknown(path)),
        };
    }
    if is_base(path) || is_stored_name(&written) {
        return model::look(&find_base(Some(path), None)?);
    }
    if let Some(failure) = unlike(path) {
        return Err(failure);
    }
    match find_files(&written) {
        Ok(_) => dataset::look(args),
        Err(_) if hub_id(&written).is_some() => {
            let folder = find_base(Some(path), None)?;
            kind_of(&folder).unwrap_or(FolderKind::Model).look(&folder)
        }
        Err(error) if written.contains(['*', '?', '[']) => Err(Failure {
            exit: Exit::NoInput,
            ..error.into()
        }),
        Err(error @ SourceError::Dangling { .. }) => Err(Failure {
            exit: Exit::NoInput,
            ..error.into()
        }),
        Err(_) => {
            let fault = Fault::new(format!("`{written}` does not exist")).hint(EXPECTED);
            Err(Failure::new(Exit::NoInput, fault))
        }
    }
}

/// Returns why a file that is not Parquet cannot be inspected; `None` if it can.
fn unlike(path: &Path) -> Option<Failure> {
    if !path.is_file() || is_convertible(path) {
        return None;
    }
    let (is_called, content) = (
        path.extension().is_some_and(|end| end == "parquet"),
        Content::of(path),
    );
    let folder = NotFolder::of(path)
        .and_then(|why| why.hint())
        .filter(|_| is_of_folder(path));
    match (folder, content) {
        (Some(hint), _) => {
            let fault = Fault::new(format!(
                "`{}` is a file of a model or an adapter, expected its folder",
                path.display()
            ));
            Some(Failure::new(Exit::Input, fault.hint(hint)))
        }
        (None, Some(content)) if is_called || content != Content::Text => Some(
            TableError::Other {
                path: path.to_owned(),
                content,
            }
            .into(),
        ),
        // A file with the extension or the first bytes of Parquet is a damaged one.
        (None, None) if is_called || begins_as_parquet(path) => None,
        _ => Some(unknown(path)),
    }
}

/// Returns whether a name is one of a model's or an adapter's files.
fn is_of_folder(path: &Path) -> bool {
    let is_weights = path.extension().is_some_and(|end| end == "safetensors");
    let name = path.file_name().unwrap_or_default();
    is_weights
        || [
            "config.json",
            "adapter_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        .iter()
        .any(|of| name == *of)
}

fn begins_as_parquet(path: &Path) -> bool {
    let mut head = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut head))
        .is_ok_and(|()| head == *b"PAR1")
}

enum FolderKind {
    Run,
    Adapter,
    Model,
}

impl FolderKind {
    fn look(self, path: &Path) -> Result<Findings, Failure> {
        match self {
            Self::Run => run::look(path),
            Self::Adapter => {
                adapter::look(&RunFolder::adapter_in(path).unwrap_or_else(|| path.to_owned()))
            }
            Self::Model => model::look(path),
        }
    }
}

fn kind_of(folder: &Path) -> Option<FolderKind> {
    match folder {
        folder
            if folder.join(RunFolder::LOCK).exists()
                && folder.join(RunFolder::METRICS).exists() =>
        {
            Some(FolderKind::Run)
        }
        folder if run::is_running(folder) => Some(FolderKind::Run),
        folder if RunFolder::adapter_in(folder).is_some() => Some(FolderKind::Adapter),
        folder if folder.join("config.json").exists() => Some(FolderKind::Model),
        _ => None,
    }
}

fn unknown(path: &Path) -> Failure {
    let fault = Fault::new(format!(
        "`{}` is nothing that is known: it holds no `config.json`, `adapter_config.json`, `{}` or \
        Parquet file",
        path.display(),
        RunFolder::LOCK
    ));
    Failure::new(Exit::Input, fault.hint(EXPECTED))
}

/// Formats a part and its percentage, with digits in groups.
fn share(part: u64, of: u64) -> String {
    format!(
        "{} ({:.1} %)",
        super::grouped(part),
        100.0 * part as f64 / of.max(1) as f64
    )
}
