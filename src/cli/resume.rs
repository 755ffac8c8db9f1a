//! `rankine resume`: continues a run from its latest complete checkpoint. The resulting adapter is
//! the same as without the interruption.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use clap::Args;

use super::base::{find_named, no_folder};
use super::run_folder::ClaimedRunFolder;
use super::session::Session;
use super::signals::Signals;
use super::{Failure, hub, print, result, with_base};
use crate::device;
use crate::fault::{Exit, Fault};
use crate::files::{self, NotFolder};
use crate::plan::{Fetched, Inputs, Lock, Named, Places, Plan};
use crate::report::Terminal;
use crate::train::{self, Checkpoint, RunFolder};

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The folder of the run
    run: PathBuf,
    /// The folder of the base, or a Hub id that was pulled, where it is not beside the run
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// A folder in which the run's data, chat template and starting adapter are found by their
    /// hashes, whatever their names
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Go on although the base, the tokenizer, the template or data have changed, or on a device
    /// that is not proven
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
    let room = ClaimedRunFolder::reopen(&run)?;
    let signals = Signals::listen(&run)?;
    let checkpoint = latest(&run, args.force, terminal)?;
    signals.saved.store(checkpoint.is_some(), Relaxed);
    signals.stepped.store(checkpoint.is_some(), Relaxed);
    let (path, before) = read_lock(&run, checkpoint.as_ref(), terminal)?;
    let named = Named {
        base: args.base.as_deref().map(find_named).transpose()?,
        data: data_folder(args.data.as_deref())?,
    };
    let places = Places::find(&before, &run, &named)?;
    if let Some(folder) = named.data.as_ref().filter(|_| !places.has_found()) {
        let fault = Fault::new(format!(
            "--data: no file in `{}` has the content of one that the run read",
            folder.display()
        ));
        return Err(Failure::new(
            Exit::Input,
            fault.hint("name the folder that holds the data as it was; the lock has its hashes"),
        ));
    }
    enter(&places, terminal)?;
    let mut recipe = Lock::recipe(&path, &run)?;
    places.apply(&before, &mut recipe)?;
    let base = before
        .pinned_base()
        .map(|id| hub::locked(&id, &recipe, places.base(), terminal))
        .transpose()?;
    let datasets = hub::locked_datasets(&before, &mut recipe, &places, Some(terminal))?;
    let since = SystemTime::now();
    let plan = with_base(crate::plan::resolve_on(
        recipe,
        before.started(),
        Fetched { base, datasets },
        &|event| {
            terminal.take(&event);
        },
    )?)?;
    plan.check_trains()?;
    let threads = device::set_threads(plan.threads);
    let inputs = Inputs::of(&plan, since)?;
    let now = Lock::new(
        &plan,
        "",
        threads,
        places.renamed(&before, inputs.hash().finish()?),
    );
    let lock = compare(
        before,
        (&now, &places),
        checkpoint.as_ref(),
        args.force,
        terminal,
    )?;
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
        again: "",
    };
    session.run(|| Ok(lock))
}

/// Checks that a path leads to a run.
pub(super) fn find(run: &Path) -> Result<PathBuf, Failure> {
    let hint = "give the folder of a run, such as `checkpoints/quickstart`";
    let refused =
        |exit, message: String, hint: &str| Err(Failure::new(exit, Fault::new(message).hint(hint)));
    match NotFolder::of(run) {
        Some(NotFolder::Missing) => {
            return refused(
                Exit::NoInput,
                format!("run `{}` does not exist", run.display()),
                hint,
            );
        }
        Some(why @ NotFolder::Dangling { .. }) => {
            return refused(
                Exit::NoInput,
                format!("run `{}` {why}", run.display()),
                &why.hint().unwrap_or_default(),
            );
        }
        Some(why) => {
            return refused(
                Exit::Input,
                format!("`{}` {why}, expected the folder of a run", run.display()),
                hint,
            );
        }
        None => {}
    }
    if Checkpoint::is_one(run) {
        let of = std::path::absolute(run)
            .ok()
            .and_then(|path| Some(path.parent()?.parent()?.to_owned()))
            .unwrap_or_default();
        let hint = format!(
            "name its run: `{}`; of its checkpoints the newest that is whole counts",
            of.display()
        );
        return refused(
            Exit::Input,
            format!(
                "`{}` is a checkpoint, expected the folder of a run",
                run.display()
            ),
            &hint,
        );
    }
    let copies = run
        .join(RunFolder::CHECKPOINTS)
        .read_dir()
        .into_iter()
        .flatten()
        .flatten();
    if !run.join(RunFolder::LOCK).exists()
        && !copies
            .into_iter()
            .any(|entry| Checkpoint::is_one(&entry.path()))
    {
        return refused(
            Exit::Input,
            format!(
                "`{}` holds no run: it has no `{}`",
                run.display(),
                RunFolder::LOCK
            ),
            hint,
        );
    }
    Ok(run.to_owned())
}

/// Returns the path as it was typed, or absolute if the run's files are relative to another folder.
pub(super) fn steady(run: PathBuf) -> PathBuf {
    let there = Lock::read(&run.join(RunFolder::LOCK))
        .ok()
        .map(|lock| Places::home_of(&lock, &run));
    let stays = there.is_some() && there == std::env::current_dir().ok();
    if stays {
        run
    } else {
        std::path::absolute(&run).unwrap_or(run)
    }
}

/// Returns whether the run is finished. Its card is the last file that a run writes.
pub(super) fn is_finished(run: &Path) -> bool {
    run.join(RunFolder::CARD).exists() && RunFolder::product_in(run).is_some()
}

fn print_finished(run: &Path, json: bool) -> Result<(), Failure> {
    let result = result::read(run)?;
    if json {
        return print(result);
    }
    print(format_args!(
        "`{}` is finished at step {}: there is nothing to go on with",
        run.display(),
        result["steps"]
    ))?;
    result::print_lines(run, &result)
}

/// Returns the checkpoint to resume from. If no checkpoint is complete, `force` is needed to start
/// over.
fn latest(run: &Path, force: bool, terminal: &Terminal) -> Result<Option<Checkpoint>, Failure> {
    match Checkpoint::latest(run, &|event| terminal.take(&event)) {
        Err(train::TrainError::NoneWhole { .. }) if force => Ok(None),
        found => Ok(found?),
    }
}

/// Returns the run's lock with its path, or the copy in the checkpoint.
pub(super) fn read_lock(
    run: &Path,
    checkpoint: Option<&Checkpoint>,
    terminal: &Terminal,
) -> Result<(PathBuf, Lock), Failure> {
    let own = run.join(RunFolder::LOCK);
    match (Lock::read(&own), checkpoint) {
        (Ok(lock), _) => Ok((own, lock)),
        (Err(_), Some(checkpoint)) => {
            let copy = checkpoint.path().join(RunFolder::LOCK);
            terminal.say(&format!(
                "note: `{}` cannot be read, its copy `{}` is used",
                own.display(),
                copy.display()
            ));
            let lock = Lock::read(&copy)?;
            Ok((copy, lock))
        }
        (Err(error), None) => Err(error.into()),
    }
}

/// Returns the plan in a lock, with the files that belong to its run now.
pub(super) fn plan_of(
    lock: &Lock,
    path: &Path,
    run: &Path,
    places: &Places,
    terminal: &Terminal,
) -> Result<Plan, Failure> {
    enter(places, terminal)?;
    let mut recipe = Lock::recipe(path, run)?;
    places.apply(lock, &mut recipe)?;
    let base = lock
        .pinned_base()
        .map(|id| hub::pinned(&id, &recipe, places.base()))
        .transpose()?;
    let datasets = hub::locked_datasets(lock, &mut recipe, places, None)?;
    let fetched = Fetched { base, datasets };
    let plan = with_base(crate::plan::resolve_on(
        recipe,
        lock.started(),
        fetched,
        &|event| terminal.take(&event),
    )?)?;
    device::check(plan.device)?;
    Ok(plan)
}

/// Changes to the folder that the run's paths are relative to.
fn enter(places: &Places, terminal: &Terminal) -> Result<(), Failure> {
    for note in places.notes() {
        terminal.say(&format!("note: {note}"));
    }
    let (here, home) = (std::env::current_dir().unwrap_or_default(), places.home());
    if here != home {
        std::env::set_current_dir(home)
            .map_err(|cause| files::FileError::new("enter", home, cause))?;
    }
    Ok(())
}

/// Returns the absolute path of a folder that was named for data.
fn data_folder(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    let Some(named) = named else { return Ok(None) };
    if named.is_dir() {
        return Ok(Some(
            std::path::absolute(named).unwrap_or_else(|_| named.to_owned()),
        ));
    }
    Err(no_folder(
        "--data: ",
        named,
        "a folder",
        "name the folder that holds the run's data",
    ))
}

/// Refuses changed inputs or a changed recipe; with `--force`, records the change instead.
fn compare(
    mut lock: Lock,
    (now, places): (&Lock, &Places),
    checkpoint: Option<&Checkpoint>,
    force: bool,
    terminal: &Terminal,
) -> Result<Lock, Failure> {
    for other in lock.other_surroundings(now) {
        terminal.say(&format!("note: {other}"));
    }
    let copy = checkpoint
        .map(|from| Lock::read(&from.path().join(RunFolder::LOCK)))
        .transpose()?;
    let edits = copy.map_or_else(Vec::new, |copy| copy.changed_recipe(&lock));
    let changes: Vec<String> = lock
        .changed_inputs(now, places)
        .into_iter()
        .chain(edits)
        .collect();
    if !changes.is_empty() && !force {
        let hint = "put back what it was, or name where it lies with `--base DIR` or `--data DIR`; \
            or go on with `--force`, which is written into the lock, and to another result";
        let faults = changes
            .into_iter()
            .map(|change| Fault::new(change).hint(hint))
            .collect();
        return Err(Failure {
            exit: Exit::Input,
            faults,
        });
    }
    for change in &changes {
        terminal.say(&format!("note: {change}; going on because of `--force`"));
    }
    lock.record(now, checkpoint.map_or(0, |from| from.state.step), &changes);
    Ok(lock)
}
