//! `rankine resume`: a run goes on from its latest whole checkpoint, to the same adapter as if it had never stopped.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use clap::Args;

use super::room::Room;
use super::session::Session;
use super::signals::Signals;
use super::{Failure, hub, print, result, with_base};
use crate::fault::{Exit, Fault};
use crate::plan::{Inputs, Lock, Plan};
use crate::report::Terminal;
use crate::train::{self, Checkpoint, RunFolder};
use crate::{device, files};

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The folder of the run
    run: PathBuf,
    /// Go on although the base, the tokenizer, the template or data have changed, or on a device that is not proven
    #[arg(long)]
    force: bool,
    /// Do not check gradients on a GPU against the CPU before the first training there
    #[arg(long)]
    skip_proof: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn resume(args: &ResumeArgs, terminal: &Terminal) -> Result<(), Failure> {
    let run = steady(find(&args.run)?);
    if is_finished(&run) {
        return print_finished(&run, args.json);
    }
    let room = Room::reopen(&run)?;
    let signals = Signals::listen(&run)?;
    let checkpoint = latest(&run, args.force, terminal)?;
    signals.saved.store(checkpoint.is_some(), Relaxed);
    let (path, before) = read_lock(&run, checkpoint.as_ref(), terminal)?;
    let run = enter(&before, run, terminal)?;
    let recipe = Lock::recipe(&path, &run)?;
    let fetched = before.pinned_base().map(|id| hub::locked(&id, &recipe, terminal)).transpose()?;
    let since = SystemTime::now();
    let plan = with_base(crate::plan::resolve_on(recipe, before.started(), fetched)?)?;
    plan.check_trains()?;
    let threads = device::set_threads(plan.threads);
    let inputs = Inputs::of(&plan, since)?;
    let now = Lock::new(&plan, "", threads, inputs.hash().finish()?);
    let lock = compare(before, &now, checkpoint.as_ref(), args.force, terminal)?;
    match &checkpoint {
        Some(from) => terminal.say(&format!("going on after step {}", from.state.step)),
        None => terminal.say("there is no checkpoint to go on from: starting from step 0"),
    }
    let session = Session {
        plan: &plan,
        inputs,
        signals: &signals,
        terminal,
        room: &room,
        checkpoint,
        force: args.force,
        skip_proof: args.skip_proof,
        json: args.json,
        command: None,
    };
    session.run(|| Ok(lock))
}

/// Checks that a path leads to a run.
pub(super) fn find(run: &Path) -> Result<PathBuf, Failure> {
    let hint = "give the folder of a run, such as `checkpoints/quickstart`";
    let refused = |exit, message: String, hint: &str| Err(Failure::new(exit, Fault::new(message).hint(hint)));
    if !run.exists() {
        return refused(Exit::NoInput, format!("run `{}` does not exist", run.display()), hint);
    }
    if !run.is_dir() {
        return refused(Exit::Input, format!("`{}` is a file, expected the folder of a run", run.display()), hint);
    }
    if Checkpoint::is_one(run) {
        let of = std::path::absolute(run).ok().and_then(|path| Some(path.parent()?.parent()?.to_owned())).unwrap_or_default();
        let hint = format!("name its run: `{}`; of its checkpoints the newest that is whole counts", of.display());
        return refused(Exit::Input, format!("`{}` is a checkpoint, expected the folder of a run", run.display()), &hint);
    }
    let copies = run.join(RunFolder::CHECKPOINTS).read_dir().into_iter().flatten().flatten();
    if !run.join(RunFolder::LOCK).exists() && !copies.into_iter().any(|entry| Checkpoint::is_one(&entry.path())) {
        return refused(Exit::Input, format!("`{}` holds no run: it has no `{}`", run.display(), RunFolder::LOCK), hint);
    }
    Ok(run.to_owned())
}

/// The path as it was typed, or absolute where the run's own working directory is another than this one.
pub(super) fn steady(run: PathBuf) -> PathBuf {
    let there = Lock::read(&run.join(RunFolder::LOCK)).ok().and_then(|lock| lock.working_directory());
    let stays = there.is_some() && there == std::env::current_dir().ok();
    if stays { run } else { std::path::absolute(&run).unwrap_or(run) }
}

/// The last thing that a run writes is its card.
pub(super) fn is_finished(run: &Path) -> bool {
    run.join(RunFolder::CARD).exists() && RunFolder::product_in(run).is_some()
}

fn print_finished(run: &Path, json: bool) -> Result<(), Failure> {
    let result = result::read(run)?;
    if json {
        return print(result);
    }
    print(format_args!("`{}` is finished at step {}: there is nothing to go on with", run.display(), result["steps"]))?;
    result::print_lines(run, &result)
}

/// The checkpoint to go on from. Where there are some and none is whole, only who says so loses them.
fn latest(run: &Path, force: bool, terminal: &Terminal) -> Result<Option<Checkpoint>, Failure> {
    match Checkpoint::latest(run, &|event| terminal.take(&event)) {
        Err(train::Error::NoneWhole { .. }) if force => Ok(None),
        found => Ok(found?),
    }
}

/// The run's lock with its path, or the copy of the checkpoint.
pub(super) fn read_lock(run: &Path, checkpoint: Option<&Checkpoint>, terminal: &Terminal) -> Result<(PathBuf, Lock), Failure> {
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

/// The plan that a lock holds, read where its run was started, and the folder of the run seen from there.
pub(super) fn plan_of(lock: &Lock, path: &Path, run: PathBuf, terminal: &Terminal) -> Result<(Plan, PathBuf), Failure> {
    let run = enter(lock, run, terminal)?;
    let recipe = Lock::recipe(path, &run)?;
    let cached = lock.pinned_base().map(|id| hub::cached(&id)).transpose()?;
    let plan = with_base(crate::plan::resolve_on(recipe, lock.started(), cached)?)?;
    device::check(plan.device)?;
    Ok((plan, run))
}

/// Goes to where the run was started, because its paths are relative to there. A folder that is gone is no fault by itself.
pub(super) fn enter(lock: &Lock, run: PathBuf, terminal: &Terminal) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    let Some(there) = lock.working_directory().filter(|there| *there != here) else { return Ok(run) };
    if !there.is_dir() {
        terminal.say(&format!("note: `{}`, where the run was started, is gone: paths are looked up here", there.display()));
        return Ok(run);
    }
    std::env::set_current_dir(&there).map_err(|cause| files::Error::new("enter", &there, cause))?;
    Ok(run)
}

/// Refuses inputs and a recipe that have changed, or writes down that it went on with them.
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
    let copy = checkpoint.map(|from| Lock::read(&from.path().join(RunFolder::LOCK))).transpose()?;
    let edits = copy.map_or_else(Vec::new, |copy| copy.changed_recipe(&lock));
    let changes: Vec<String> = lock.changed_inputs(now).into_iter().chain(edits).collect();
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
