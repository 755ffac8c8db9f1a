//! The output folder of a run. One process uses it at a time, nothing is lost without
//! `--overwrite`, and an older run is removed only when the new one is about to start.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::data::DataFile;
use crate::fault::{Exit, Failure, Fault, shell_word};
use crate::files::license::{Notices, notice_paths};
use crate::files::{
    self, Claim, JSON_BYTES, Refused, RowCache, check_space, create_folder, hash_file,
    read_text_up_to, remove_leftovers,
};
use crate::plan::Plan;
use crate::train::RunFolder;

/// Files that make a folder a run that can be resumed.
const RUN: [&str; 3] = [RunFolder::ADAPTER, RunFolder::MODEL, RunFolder::CHECKPOINTS];
/// All files that a run writes, except the licenses of its base and its report.
const PARTS: [&str; 10] = [
    RunFolder::ADAPTER,
    RunFolder::MODEL,
    RunFolder::CHECKPOINTS,
    RunFolder::METRICS,
    RunFolder::LOCK,
    RunFolder::CARD,
    RunFolder::RESULT,
    RunFolder::SAMPLES,
    RunFolder::TENSORBOARD,
    RunFolder::EVALUATIONS,
];

/// A run folder that this process has claimed.
#[derive(Debug)]
pub struct ClaimedRunFolder {
    folder: PathBuf,
    /// Folders that were created for it, the innermost first.
    made: Vec<PathBuf>,
    /// Temporary folders of its data.
    temporary: Vec<PathBuf>,
    _claim: Claim,
}

/// Files that a run creates before its first step, which are removed if it takes none.
#[derive(Debug)]
pub struct Traces {
    files: Vec<PathBuf>,
    /// Folders, removed only if they are empty.
    folders: Vec<PathBuf>,
}

impl Traces {
    /// Removes the files. Those that cannot be removed stay, and do no harm.
    pub fn remove(&self) {
        for path in &self.files {
            let _ = if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
        }
        for folder in &self.folders {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Removes the folders that were created, if the run produced nothing.
impl Drop for ClaimedRunFolder {
    fn drop(&mut self) {
        self.traces(false).remove();
    }
}

impl ClaimedRunFolder {
    /// Claims the folder of a new run.
    ///
    /// Refuses a folder that another process has claimed, that holds another run (unless it may be
    /// overwritten), that has foreign files where the run would write, that cannot be written, or
    /// whose disk has no room for a checkpoint. `command` is the command that started this run.
    pub fn find(plan: &Plan, overwrite: bool, command: &str) -> Result<Self, Failure> {
        let folder = &plan.output_dir;
        // Check now, not after an hour of tokenizing.
        check_names(folder)?;
        let made = folder
            .ancestors()
            .take_while(|above| !above.as_os_str().is_empty() && !above.exists());
        let made = made.map(Path::to_owned).collect();
        create_folder(folder)?;
        let temporary = data_files(plan).filter_map(DataFile::temporary_folder);
        let room = Self {
            folder: folder.clone(),
            made,
            temporary: temporary.map(Path::to_owned).collect(),
            _claim: claim(folder, "wait until it ends, or choose another `output_dir`")?,
        };
        let (parts, shown, lock) = (room.parts(), folder.display(), RunFolder::LOCK);
        if let (Some(part), false) = (parts.first(), folder.join(lock).exists()) {
            let message = format!(
                "output_dir: `{}` is there and is not of a run: `{shown}` has no `{lock}`",
                part.display()
            );
            return Err(exists(message, "choose another `output_dir`"));
        }
        if !overwrite && holds_run(folder) {
            let run = shell_word(&shown.to_string());
            let hint = format!(
                "go on with `rankine resume {run}`, or start over with `{command} --overwrite`"
            );
            return Err(exists(format!("`{shown}` holds a run"), &hint));
        }
        if folder.canonicalize().is_ok_and(|folder| {
            plan.base_folder
                .canonicalize()
                .is_ok_and(|base| base == folder)
        }) {
            let message = format!(
                "output_dir: `{shown}` is the folder of the base, whose files those of the run \
                would stand among"
            );
            return Err(exists(message, "choose another `output_dir`"));
        }
        if let Some(path) = Notices::read(&plan.base_folder)?
            .first_other(folder)
            .filter(|path| !parts.contains(path))
        {
            let message = format!(
                "output_dir: `{}` is there and is not the license of the base",
                path.display()
            );
            return Err(exists(message, "choose another `output_dir`"));
        }
        if let Some((key, path)) = inputs(plan)
            .into_iter()
            .find(|(_, path)| parts.iter().any(|part| lies_in(path, part)))
        {
            let message = format!(
                "{key}: `{}` lies in `{shown}`, which this run would empty",
                path.display()
            );
            return Err(exists(message, "choose another `output_dir`"));
        }
        check_space(folder, plan.needed_bytes()?)?;
        Ok(room)
    }

    /// Claims the folder of a resumed run. Partial files of dead processes are removed.
    pub fn reopen(run: &Path) -> Result<Self, Failure> {
        let room = Self {
            folder: run.to_owned(),
            made: Vec::new(),
            temporary: Vec::new(),
            _claim: claim(run, "wait until it ends")?,
        };
        room.sweep()?;
        Ok(room)
    }

    /// Returns what a new run has created so far: folders, and with `has_begun` all files of a run,
    /// because an older run is removed by then.
    pub fn traces(&self, has_begun: bool) -> Traces {
        let of_run = if has_begun {
            PARTS.iter().map(|part| self.folder.join(part)).collect()
        } else {
            Vec::new()
        };
        let files = of_run
            .into_iter()
            .chain([self.folder.join(Claim::PID_FILE)])
            .chain(self.temporary.iter().cloned())
            .collect();
        Traces {
            files,
            folders: self.made.clone(),
        }
    }

    /// Removes the files of an older run. Foreign files are kept, and so are the cache `entries`
    /// that the new run uses.
    pub fn clear(&self, entries: &[String]) -> Result<(), Failure> {
        let cache = self.folder.join(RunFolder::CACHE);
        for entry in files::entries(&RowCache::OfRun(cache.clone()))
            .iter()
            .filter(|entry| !entries.contains(&entry.name))
        {
            files::remove(entry)?;
        }
        // A folder that is not empty stays.
        let _ = std::fs::remove_dir(&cache);
        let page = Some(self.folder.join(RunFolder::PAGE)).filter(|page| page.exists());
        for part in self.parts().into_iter().chain(page) {
            let removed = if part.is_dir() {
                std::fs::remove_dir_all(&part)
            } else {
                std::fs::remove_file(&part)
            };
            removed.map_err(|cause| files::FileError::new("remove", &part, cause))?;
        }
        self.sweep()
    }

    fn sweep(&self) -> Result<(), Failure> {
        // No other process writes here.
        Ok(remove_leftovers(
            &[&self.folder, &self.folder.join(RunFolder::CHECKPOINTS)],
            Duration::ZERO,
        )?)
    }

    fn parts(&self) -> Vec<PathBuf> {
        PARTS
            .iter()
            .map(|part| self.folder.join(part))
            .filter(|part| part.exists())
            .chain(self.notices())
            .collect()
    }

    /// Returns the licenses that an older run wrote beside its card, recognized by the hashes in
    /// the card.
    fn notices(&self) -> Vec<PathBuf> {
        let card =
            read_text_up_to(&self.folder.join(RunFolder::CARD), JSON_BYTES).unwrap_or_default();
        let is_named =
            |path: &PathBuf| hash_file(path).is_ok_and(|hash| card.contains(&hash.to_string()));
        notice_paths(&self.folder)
            .into_iter()
            .filter(is_named)
            .collect()
    }
}

/// Returns whether a folder holds results of a run that would be lost. Metrics without a step do
/// not count.
fn holds_run(folder: &Path) -> bool {
    let has_step = || {
        File::open(folder.join(RunFolder::METRICS)).is_ok_and(|file| has_step(BufReader::new(file)))
    };
    RUN.iter().any(|part| folder.join(part).exists()) || has_step()
}

/// Returns whether a line reports a step. A line that cannot be read counts as one.
fn has_step(metrics: impl BufRead) -> bool {
    let is_evaluation = |line: &str| {
        serde_json::from_str::<Value>(line).is_ok_and(|line| line.get("eval_loss").is_some())
    };
    metrics.lines().any(|line| {
        line.map_or(true, |line| {
            !line.trim().is_empty() && !is_evaluation(&line)
        })
    })
}

fn claim(folder: &Path, hint: &str) -> Result<Claim, Failure> {
    Claim::take(folder).map_err(|refused| match refused {
        Refused::Held { pid } => {
            let process = pid.map_or_else(
                || "another process".to_owned(),
                |pid| format!("process {pid}"),
            );
            exists(
                format!("`{}` is in use by {process}", folder.display()),
                hint,
            )
        }
        Refused::File(error) => error.into(),
    })
}

/// Checks that the paths are UTF-8, because the lock is text and a run must be found by it.
fn check_names(folder: &Path) -> Result<(), Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    let Some(path) = [folder, &here]
        .into_iter()
        .find(|path| path.to_str().is_none())
    else {
        return Ok(());
    };
    let fault = Fault::new(format!(
        "`{}` is not UTF-8, so that the run could not be resumed from its lock",
        path.display()
    ));
    Err(Failure::new(
        Exit::Input,
        fault.hint("choose an `output_dir` and a working directory with other names"),
    ))
}

fn exists(message: String, hint: &str) -> Failure {
    Failure::new(Exit::Exists, Fault::new(message).hint(hint))
}

fn data_files(plan: &Plan) -> impl Iterator<Item = &DataFile> {
    plan.sources
        .iter()
        .chain(&plan.validation_sources)
        .flat_map(|source| &source.files)
}

/// Returns every path that the run reads, with the key that names it.
fn inputs(plan: &Plan) -> Vec<(&'static str, &Path)> {
    let base = [("base_model", plan.base_folder.as_path())].into_iter();
    let template = plan
        .chat_template
        .iter()
        .map(|path| ("chat_template", path.as_path()));
    let adapter = plan
        .init_from
        .iter()
        .map(|path| ("adapter.init_from", path.as_path()));
    let data = data_files(plan).map(|file| ("datasets", file.path()));
    base.chain(template).chain(adapter).chain(data).collect()
}

fn lies_in(path: &Path, folder: &Path) -> bool {
    path.canonicalize()
        .and_then(|path| Ok(path.starts_with(folder.canonicalize()?)))
        .unwrap_or(false)
}
