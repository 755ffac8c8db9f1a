//! `rankine resume`: a run goes on from its latest whole checkpoint, to the same adapter as if it had never stopped.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::Args;

use super::room::Room;
use super::session::Session;
use super::signals::Signals;
use super::{Failure, print, result, with_base};
use crate::fault::{Exit, Fault};
use crate::plan::{Inputs, Lock};
use crate::report::Terminal;
use crate::train::{Checkpoint, RunFolder};
use crate::{device, files};

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The folder of the run
    run: PathBuf,
    /// Go on although the base, the tokenizer, the template or data have changed, or on a device that is not proven
    #[arg(long)]
    force: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn resume(args: &ResumeArgs, terminal: &Terminal) -> Result<(), Failure> {
    let run = find(&args.run)?;
    let room = Room::reopen(&run)?;
    let signals = Signals::listen(&run)?;
    let checkpoint = Checkpoint::latest(&run, &|event| terminal.take(&event));
    signals.saved.store(checkpoint.is_some(), Relaxed);
    if let Some(done) = checkpoint.as_ref().filter(|_| is_finished(&run)) {
        return print_finished(&run, done, args.json);
    }
    let (path, before) = read_lock(&run, checkpoint.as_ref(), terminal)?;
    let run = enter(&before, run, terminal)?;
    let plan = with_base(crate::plan::resolve(Lock::recipe(&path, &run)?, before.started())?)?;
    let threads = device::set_threads(plan.threads);
    let inputs = Inputs::of(&plan)?;
    let now = Lock::new(&plan, "", threads, inputs.hash().finish()?);
    let lock = compare(before, &now, checkpoint.as_ref(), args.force, terminal)?;
    match &checkpoint {
        Some(from) => terminal.say(&format!("going on after step {}", from.state.step)),
        None => terminal.say("no checkpoint is whole: starting from step 0"),
    }
    let session = Session {
        plan: &plan,
        inputs,
        signals: &signals,
        terminal,
        checkpoint,
        force: args.force,
        json: args.json,
        command: None,
    };
    session.run(|| Ok(lock))?;
    drop(room);
    Ok(())
}

/// The run's folder with its place, which the working directory may leave behind.
fn find(run: &Path) -> Result<PathBuf, Failure> {
    let hint = "give the folder of a run, such as `checkpoints/quickstart`";
    if !run.is_dir() {
        let fault = Fault::new(format!("run `{}` does not exist", run.display()));
        return Err(Failure::new(Exit::NoInput, fault.hint(hint)));
    }
    let has = |name: &str| run.join(name).exists();
    if !has(RunFolder::LOCK) && !has(RunFolder::CHECKPOINTS) {
        let fault = Fault::new(format!("`{}` holds no run: it has no `{}`", run.display(), RunFolder::LOCK));
        return Err(Failure::new(Exit::Input, fault.hint(hint)));
    }
    Ok(run.to_owned())
}

/// The last thing that a run writes is its card.
fn is_finished(run: &Path) -> bool {
    run.join(RunFolder::CARD).exists() && run.join(RunFolder::ADAPTER).exists()
}

fn print_finished(run: &Path, done: &Checkpoint, json: bool) -> Result<(), Failure> {
    if json {
        return print(result::object(run, &done.state, Duration::from_secs_f64(done.state.seconds)));
    }
    print(format_args!("`{}` is finished at step {}: there is nothing to go on with", run.display(), done.state.step))?;
    result::print_lines(run, &done.state)
}

/// The run's lock with its path, or the copy of the checkpoint.
fn read_lock(run: &Path, checkpoint: Option<&Checkpoint>, terminal: &Terminal) -> Result<(PathBuf, Lock), Failure> {
    let own = run.join(RunFolder::LOCK);
    match (Lock::read(&own), checkpoint) {
        (Ok(lock), _) => Ok((own, lock)),
        (Err(_), Some(checkpoint)) => {
            let copy = checkpoint.path().join(RunFolder::LOCK);
            terminal.say(&format!("note: `{}` cannot be read, its copy `{}` is used", own.display(), copy.display()));
            let lock = Lock::read(&copy)?;
            Ok((copy, lock))
        }
        (Err(error), None) => Err(error.into()),
    }
}

/// Goes to where the run was started, because its paths are relative to there. A folder that is gone is no fault by itself.
fn enter(lock: &Lock, run: PathBuf, terminal: &Terminal) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    let Some(there) = lock.working_directory().filter(|there| *there != here) else { return Ok(run) };
    if !there.is_dir() {
        terminal.say(&format!("note: `{}`, where the run was started, is gone: paths are looked up here", there.display()));
        return Ok(run);
    }
    let run = std::path::absolute(&run).unwrap_or(run);
    std::env::set_current_dir(&there).map_err(|cause| files::Error::new("enter", &there, cause))?;
    Ok(run)
}

/// Refuses inputs that have changed, or writes down that it went on with them.
fn compare(
    mut lock: Lock,
    now: &Lock,
    checkpoint: Option<&Checkpoint>,
    force: bool,
    terminal: &Terminal,
) -> Result<Lock, Failure> {
    for other in lock.other_surroundings(now) {
        terminal.say(&format!("note: {other}"));
    }
    let changes = lock.changed_inputs(now);
    if !changes.is_empty() && !force {
        let hint = "put back what it was; or go on with `--force`, which is written into the lock, and to another result";
        let faults = changes.into_iter().map(|change| Fault::new(change).hint(hint)).collect();
        return Err(Failure { exit: Exit::Input, faults });
    }
    for change in &changes {
        terminal.say(&format!("note: {change}; going on because of `--force`"));
    }
    lock.record(now, checkpoint.map_or(0, |from| from.state.step), &changes);
    Ok(lock)
}
