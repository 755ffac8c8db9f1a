//! `rankine inspect`: what a model, an adapter, a run or a dataset is, from its headers and configs; weights are not loaded.

mod adapter;
mod dataset;
mod model;
mod run;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::base::find_base;
use super::{Failure, print};
use crate::data::find_files;
use crate::fault::{Exit, Fault};
use crate::plan::hub_id;
use crate::terms::{Format, Term};
use crate::train::RunFolder;

const EXPECTED: &str = "give the folder of a model, an adapter or a run, or Parquet files";

/// What `--json` prints is one object. `kind` is `model`, `adapter`, `run` or `dataset`, `path` is where it is; the other keys are those of
/// the lines: of a model `parameters`, `tensors`, `projections`, `licence`, `chat_template`; of an adapter `modules` with norm and effective
/// rank of each; of a run `recipe`, `state` and `result`; of a dataset `columns`, `rows` and `token_lengths`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The folder of a model, of an adapter, of a run or of a checkpoint, a Hub id that was pulled; or a Parquet file, a glob or a folder of them
    #[arg(value_name = "MODEL|ADAPTER|RUN|DATASET")]
    subject: PathBuf,
    /// Of a dataset: the model whose tokenizer and chat template count its tokens
    #[arg(long, value_name = "DIR|ID")]
    base: Option<PathBuf>,
    /// Of a dataset: the shape of its rows, `text`, `completion`, `instruction` or `chat`; without it, the one whose columns are there
    #[arg(long, value_parser = parse_format)]
    format: Option<Format>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_format(word: &str) -> Result<Format, String> {
    Format::parse(word).ok_or_else(|| "expected `text`, `completion`, `instruction` or `chat`".to_owned())
}

/// What was found, for a person and for a program.
struct Found {
    /// A name, and what there is to say of it.
    lines: Vec<(String, String)>,
    object: Value,
}

impl Found {
    fn new(kind: &str, path: &Path) -> Self {
        let (shown, object) = (path.display().to_string(), json!({"kind": kind, "path": path.display().to_string()}));
        Self { lines: vec![(kind.to_owned(), shown)], object }
    }

    /// A line, and its value under a key.
    fn tell(&mut self, key: &str, line: impl Into<String>, value: Value) {
        self.lines.push((key.replace('_', " "), line.into()));
        self.object[key] = value;
    }

    /// A further line of what was told last.
    fn more(&mut self, line: impl Into<String>) {
        self.lines.push((String::new(), line.into()));
    }
}

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let found = look(args)?;
    if args.json {
        return print(found.object);
    }
    let width = found.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    found.lines.iter().try_for_each(|(name, line)| print(format!("{name:<width$}  {line}").trim_end()))
}

/// What the subject is follows from what is there.
fn look(args: &InspectArgs) -> Result<Found, Failure> {
    let path = &args.subject;
    let written = path.to_string_lossy();
    if path.is_dir() {
        return match kind_of(path) {
            Some(kind) => kind.look(path),
            None if find_files(&written).is_ok() => dataset::look(args),
            None => Err(unknown(path)),
        };
    }
    if path.is_file() && path.extension().is_none_or(|end| end != "parquet") {
        return Err(unknown(path));
    }
    match find_files(&written) {
        Ok(_) => dataset::look(args),
        Err(_) if hub_id(&written).is_some() => {
            let folder = find_base(Some(path), None)?;
            kind_of(&folder).unwrap_or(Kind::Model).look(&folder)
        }
        Err(error) if written.contains(['*', '?', '[']) => Err(Failure { exit: Exit::NoInput, ..error.into() }),
        Err(_) => {
            let fault = Fault::new(format!("`{written}` does not exist")).hint(EXPECTED);
            Err(Failure::new(Exit::NoInput, fault))
        }
    }
}

enum Kind {
    Run,
    Adapter,
    Model,
}

impl Kind {
    fn look(self, path: &Path) -> Result<Found, Failure> {
        match self {
            Self::Run => run::look(path),
            Self::Adapter => adapter::look(&RunFolder::adapter_in(path).unwrap_or_else(|| path.to_owned())),
            Self::Model => model::look(path),
        }
    }
}

fn kind_of(folder: &Path) -> Option<Kind> {
    match folder {
        folder if folder.join(RunFolder::LOCK).exists() && folder.join(RunFolder::METRICS).exists() => Some(Kind::Run),
        folder if run::is_running(folder) => Some(Kind::Run),
        folder if RunFolder::adapter_in(folder).is_some() => Some(Kind::Adapter),
        folder if folder.join("config.json").exists() => Some(Kind::Model),
        _ => None,
    }
}

fn unknown(path: &Path) -> Failure {
    let fault = Fault::new(format!(
        "`{}` is nothing that is known: it holds no `config.json`, `adapter_config.json`, `{}` or Parquet file",
        path.display(),
        RunFolder::LOCK
    ));
    Failure::new(Exit::Input, fault.hint(EXPECTED))
}

/// A share, whole numbers in groups.
fn share(part: u64, of: u64) -> String {
    format!("{} ({:.1} %)", super::grouped(part), 100.0 * part as f64 / of.max(1) as f64)
}
