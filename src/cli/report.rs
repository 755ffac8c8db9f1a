//! `rankine report`: a run, or several side by side, as one page of HTML.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, print};
use crate::export::{Metrics, PAGE_BEGINS, Progress, RunRecord, Sample, ScoredRun, page};
use crate::fault::{Exit, Fault};
use crate::files::{self, Claim, hash_file, open_file, write_atomic};
use crate::report::{Event, Terminal};
use crate::run::{check_is_run, is_finished, read_lock, without_places};
use crate::train::{Checkpoint, RunFolder};

/// Most bytes that are read of a file of JSON lines: some millions of steps.
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
    let mut runs = args
        .runs
        .iter()
        .map(|run| read(run, terminal))
        .collect::<Result<Vec<_>, _>>()?;
    tell_apart(&mut runs, &args.runs);
    refuse_foreign(&out)?;
    write_atomic(&out, page(&runs).as_bytes())?;
    print(format_args!("report      {}", out.display()))
}

fn out(args: &ReportArgs) -> Result<PathBuf, Failure> {
    match (&args.out, &args.runs[..]) {
        (Some(out), _) => Ok(out.clone()),
        (None, [run]) => Ok(run.join(RunFolder::PAGE)),
        (None, runs) => {
            let fault = Fault::new(format!(
                "a page about {} runs is in the folder of none of them",
                runs.len()
            ));
            Err(Failure::new(
                Exit::Usage,
                fault.hint("say where it goes: `--out FILE.html`"),
            ))
        }
    }
}

/// Refuses to overwrite a file that is not a report.
fn refuse_foreign(out: &Path) -> Result<(), Failure> {
    if !out.exists() || is_page(out).unwrap_or(false) {
        return Ok(());
    }
    let fault = Fault::new(format!(
        "`{}` is there and is no page of `rankine report`",
        out.display()
    ));
    Err(Failure::new(
        Exit::Exists,
        fault.hint("choose another `--out`, or remove it"),
    ))
}

fn is_page(path: &Path) -> Result<bool, files::FileError> {
    let mut begins = vec![0; PAGE_BEGINS.len()];
    Ok(open_file(path)?.read_exact(&mut begins).is_ok() && begins == PAGE_BEGINS.as_bytes())
}

fn read(run: &Path, terminal: &Terminal) -> Result<RunRecord, Failure> {
    check_is_run(run)?;
    let notes = RefCell::new(Vec::new());
    let note = |event| {
        if let Event::Note(note) = event {
            notes.borrow_mut().push(note);
        }
    };
    // A run with damaged checkpoints still gets its report.
    let checkpoint = Checkpoint::latest(run, &note).unwrap_or_else(|error| {
        notes.borrow_mut().push(error.to_string());
        None
    });
    let (path, lock) = read_lock(run, checkpoint.as_ref(), &|event| terminal.take(&event))?;
    if path != run.join(RunFolder::LOCK) {
        notes.borrow_mut().push(format!(
            "its {} cannot be read: what this page says of the recipe is from `{}`",
            RunFolder::LOCK,
            path.strip_prefix(run).unwrap_or(&path).display()
        ));
    }
    Ok(RunRecord {
        name: name(run),
        lock: lock.portable_values(),
        metrics: lines(&run.join(RunFolder::METRICS), Metrics::read)?,
        samples: lines(&run.join(RunFolder::SAMPLES), Sample::read)?,
        evaluations: lines(&run.join(RunFolder::EVALUATIONS), ScoredRun::read)?,
        progress: progress(run),
        seconds: checkpoint.map(|checkpoint| checkpoint.state.seconds),
        written: written(run)?,
        notes: notes
            .into_inner()
            .iter()
            .map(|note| without_places(&note.replace(&format!("`{}/", run.display()), "`")))
            .collect(),
    })
}

fn progress(run: &Path) -> Progress {
    match Claim::holder(run) {
        Some(_) => Progress::Running,
        None if is_finished(run) => Progress::Finished,
        None => Progress::Unfinished,
    }
}

/// Reads a file of JSON lines; a missing file gives an empty list.
fn lines<T: Default>(
    path: &Path,
    read: impl FnOnce(BufReader<io::Take<File>>) -> io::Result<T>,
) -> Result<T, Failure> {
    if !path.exists() {
        return Ok(T::default());
    }
    let file = open_file(path)?.take(LINES_BYTES);
    Ok(read(BufReader::new(file)).map_err(|cause| files::FileError::new("read", path, cause))?)
}

/// Returns the run's files with the hash of each.
fn written(run: &Path) -> Result<Vec<(String, String)>, Failure> {
    let beside = [
        RunFolder::METRICS,
        RunFolder::SAMPLES,
        RunFolder::EVALUATIONS,
        RunFolder::LOCK,
        RunFolder::RESULT,
        RunFolder::CARD,
    ];
    let beside = beside.map(|name| run.join(name));
    let paths = RunFolder::product_files(run)?
        .into_iter()
        .chain(beside)
        .filter(|path| path.is_file());
    let hashed = |path: PathBuf| {
        let name = path
            .strip_prefix(run)
            .unwrap_or(&path)
            .display()
            .to_string();
        Ok((name, hash_file(&path)?.to_string()))
    };
    paths.map(hashed).collect()
}

/// Returns the last part of a folder's path.
fn name(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    whole.file_name().map_or_else(
        || run.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Renames runs of the same name by as much of their paths as distinguishes them.
fn tell_apart(runs: &mut [RunRecord], folders: &[PathBuf]) {
    let whole: Vec<PathBuf> = folders
        .iter()
        .map(|run| run.canonicalize().unwrap_or_else(|_| run.clone()))
        .collect();
    let end = |path: &Path, parts: usize| {
        let names: Vec<_> = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        names[names.len().saturating_sub(parts)..].join("/")
    };
    for (run, folder) in runs.iter_mut().zip(&whole) {
        let is_alone = |parts: &usize| {
            let name = end(folder, *parts);
            whole
                .iter()
                .filter(|other| end(other, *parts) == name)
                .count()
                < 2
        };
        // A folder that was named twice keeps its name.
        let parts = (1..=folder.components().count().saturating_sub(2).max(1)).find(is_alone);
        if let Some(parts) = parts.filter(|parts| *parts > 1) {
            run.name = end(folder, parts);
        }
    }
}
