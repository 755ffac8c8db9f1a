//! `rankine report`: a run, or several side by side, as one page of HTML.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use super::resume::{find, is_finished, read_lock};
use super::{Failure, print};
use crate::export::{Metrics, PAGE_BEGINS, Progress, RunRecord, Sample, page};
use crate::fault::{Exit, Fault};
use crate::files::{self, hash_file, open_file, write_atomic};
use crate::plan::Lock;
use crate::report::{Event, Terminal};
use crate::train::{Checkpoint, RunFolder};

/// The most that is read of a file of lines: some millions of steps.
const LINES_BYTES: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The folder of a run, finished or not; several are laid side by side
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where the page goes; of one run that is report.html in its folder
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

pub(super) fn report(args: &ReportArgs, terminal: &Terminal) -> Result<(), Failure> {
    let out = out(args)?;
    let mut runs = args.runs.iter().map(|run| read(run, terminal)).collect::<Result<Vec<_>, _>>()?;
    tell_apart(&mut runs);
    refuse_foreign(&out)?;
    write_atomic(&out, page(&runs).as_bytes())?;
    print(format_args!("report      {}", out.display()))
}

fn out(args: &ReportArgs) -> Result<PathBuf, Failure> {
    match (&args.out, &args.runs[..]) {
        (Some(out), _) => Ok(out.clone()),
        (None, [run]) => Ok(run.join(RunFolder::PAGE)),
        (None, runs) => {
            let fault = Fault::new(format!("a page about {} runs is in the folder of none of them", runs.len()));
            Err(Failure::new(Exit::Usage, fault.hint("say where it goes: `--out FILE.html`")))
        }
    }
}

/// An older page goes, anything else stays.
fn refuse_foreign(out: &Path) -> Result<(), Failure> {
    if !out.exists() || is_page(out).unwrap_or(false) {
        return Ok(());
    }
    let fault = Fault::new(format!("`{}` is there and is no page of `rankine report`", out.display()));
    Err(Failure::new(Exit::Exists, fault.hint("choose another `--out`, or remove it")))
}

fn is_page(path: &Path) -> Result<bool, files::Error> {
    let mut begins = vec![0; PAGE_BEGINS.len()];
    Ok(open_file(path)?.read_exact(&mut begins).is_ok() && begins == PAGE_BEGINS.as_bytes())
}

fn read(run: &Path, terminal: &Terminal) -> Result<RunRecord, Failure> {
    let run = find(run)?;
    let notes = RefCell::new(Vec::new());
    let note = |event| {
        if let Event::Note(note) = event {
            notes.borrow_mut().push(note);
        }
    };
    // A page about a run whose checkpoints are damaged is wanted all the more.
    let checkpoint = Checkpoint::latest(&run, &note).unwrap_or_else(|error| {
        notes.borrow_mut().push(error.to_string());
        None
    });
    let (path, lock) = read_lock(&run, checkpoint.as_ref(), terminal)?;
    if path != run.join(RunFolder::LOCK) {
        notes.borrow_mut().push(format!(
            "its {} cannot be read: what this page says of the recipe is from `{}`",
            RunFolder::LOCK,
            path.display()
        ));
    }
    Ok(RunRecord {
        name: name(&run),
        folder: run.display().to_string(),
        lock: values(&lock),
        metrics: lines(&run.join(RunFolder::METRICS), Metrics::read)?,
        samples: lines(&run.join(RunFolder::SAMPLES), Sample::read)?,
        progress: if is_finished(&run) { Progress::Finished } else { Progress::Unfinished },
        seconds: checkpoint.map(|checkpoint| checkpoint.state.seconds),
        written: written(&run)?,
        notes: notes.into_inner(),
    })
}

fn values(lock: &Lock) -> Map<String, Value> {
    serde_yaml::from_str(&lock.text()).expect("a lock reads what it wrote")
}

/// What a file of lines holds; nothing if it is not there.
fn lines<T: Default>(path: &Path, read: impl FnOnce(BufReader<io::Take<File>>) -> io::Result<T>) -> Result<T, Failure> {
    if !path.exists() {
        return Ok(T::default());
    }
    let file = open_file(path)?.take(LINES_BYTES);
    Ok(read(BufReader::new(file)).map_err(|cause| files::Error::new("read", path, cause))?)
}

/// The run's files with the hash of each.
fn written(run: &Path) -> Result<Vec<(String, String)>, Failure> {
    let beside = [RunFolder::METRICS, RunFolder::SAMPLES, RunFolder::LOCK, RunFolder::RESULT, RunFolder::CARD];
    let beside = beside.map(|name| run.join(name));
    let paths = RunFolder::product_files(run)?.into_iter().chain(beside).filter(|path| path.is_file());
    let hashed = |path: PathBuf| {
        let name = path.strip_prefix(run).unwrap_or(&path).display().to_string();
        Ok((name, hash_file(&path)?.to_string()))
    };
    paths.map(hashed).collect()
}

/// The last part of a folder's path.
fn name(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    whole.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Runs of the same name are called by their folders.
fn tell_apart(runs: &mut [RunRecord]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs.iter_mut().filter(|run| names.iter().filter(|name| **name == run.name).count() > 1) {
        run.name.clone_from(&run.folder);
    }
}
