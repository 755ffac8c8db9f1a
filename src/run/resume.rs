//! A run that is continued from its latest complete checkpoint. Its adapter is the same as without
//! the interruption.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use super::base::{find_named, no_folder};
use super::folder::ClaimedRunFolder;
use super::hub;
use super::inputs::Inputs;
use super::lock::Lock;
use super::places::{Named, Places};
use super::planned::with_base;
use super::session::{Beginning, DeviceCheck, Finished, Session};
use super::signals::Signals;
use crate::device;
use crate::fault::{Exit, Failure, Fault};
use crate::files::{self, NotFolder};
use crate::model::user_path;
use crate::plan::{Fetched, Plan};
use crate::report::{Event, Reporter};
use crate::train::{Checkpoint, RunFolder, TrainError};

/// Settings for continuing a run.
#[derive(Debug, Default)]
pub struct ResumeOptions {
    /// The folder of the base, or a Hub id in the cache, if it is not beside the run.
    pub base: Option<PathBuf>,
    /// A folder in which the run's other inputs are found by their hashes.
    pub data: Option<PathBuf>,
    /// Whether to continue although inputs have changed, or from step 0 if no checkpoint is whole.
    pub force: bool,
    /// The check of the device before training.
    pub device_check: DeviceCheck,
}

/// Continues the run in this folder, as [`find`] returns it, up to its end.
///
/// Paths of a run's recipe are relative to the folder where it was started, which becomes the
/// current directory of the process.
///
/// # Errors
/// The run is in use, an input is missing or has changed, or its training ends early.
pub fn resume(
    run: &Path,
    options: &ResumeOptions,
    signals: &Signals,
    report: Reporter,
) -> Result<Finished, Failure> {
    let folder = ClaimedRunFolder::reopen(run)?;
    let checkpoint = latest(run, options.force, report)?;
    signals.saved.store(checkpoint.is_some(), Relaxed);
    signals.stepped.store(checkpoint.is_some(), Relaxed);
    let (path, before) = read_lock(run, checkpoint.as_ref(), report)?;
    let places = find_inputs(&before, run, options)?;
    let plan = planned(&before, &path, run, &places, true, report)?;
    plan.check_trains()?;
    let threads = device::set_threads(plan.threads);
    let inputs = Inputs::of(&plan)?;
    let hashes = places.renamed(&before, inputs.hash().finish()?);
    let now = Lock::new(&plan, "", threads, hashes);
    let lock = compare(
        before,
        (&now, &places),
        checkpoint.as_ref(),
        options.force,
        report,
    )?;
    report(Event::Line(match &checkpoint {
        Some(from) => format!("going on after step {}", from.state.step),
        None => "there is no checkpoint to go on from: starting from step 0".to_owned(),
    }));
    let session = Session {
        plan,
        inputs,
        folder,
        command: None,
        device_check: options.device_check,
        signals,
        report,
    };
    session.run(Beginning::Resumed { lock, checkpoint })
}

/// Locates the inputs of a run that is continued.
fn find_inputs(lock: &Lock, run: &Path, options: &ResumeOptions) -> Result<Places, Failure> {
    let named = Named {
        base: options
            .base
            .as_deref()
            .map(find_named)
            .transpose()?
            .map(|folder| user_path(&folder)),
        data: data_folder(options.data.as_deref())?,
    };
    let places = Places::find(lock, run, &named)?;
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
    Ok(places)
}

/// Returns the folder of a run, if the path leads to one: as it was typed, or absolute if the run's
/// files are relative to another folder.
///
/// # Errors
/// There is no run.
pub fn find(run: &Path) -> Result<PathBuf, Failure> {
    check_is_run(run)?;
    Ok(steady(run.to_owned()))
}

/// Checks that a path leads to a run.
pub fn check_is_run(run: &Path) -> Result<(), Failure> {
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
    Ok(())
}

/// Returns the path as it was typed, or absolute if the run's files are relative to another folder.
fn steady(run: PathBuf) -> PathBuf {
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
pub fn is_finished(run: &Path) -> bool {
    run.join(RunFolder::CARD).exists() && RunFolder::product_in(run).is_some()
}

/// Returns the checkpoint to resume from. If no checkpoint is complete, `force` is needed to start
/// over.
fn latest(run: &Path, force: bool, report: Reporter) -> Result<Option<Checkpoint>, Failure> {
    match Checkpoint::latest(run, report) {
        Err(TrainError::NoneWhole { .. }) if force => Ok(None),
        found => Ok(found?),
    }
}

/// Returns the run's lock with its path, or the copy in the checkpoint.
pub fn read_lock(
    run: &Path,
    checkpoint: Option<&Checkpoint>,
    report: Reporter,
) -> Result<(PathBuf, Lock), Failure> {
    let own = run.join(RunFolder::LOCK);
    match (Lock::read(&own), checkpoint) {
        (Ok(lock), _) => Ok((own, lock)),
        (Err(_), Some(checkpoint)) => {
            let copy = checkpoint.path().join(RunFolder::LOCK);
            report(Event::Note(format!(
                "`{}` cannot be read, its copy `{}` is used",
                own.display(),
                copy.display()
            )));
            let lock = Lock::read(&copy)?;
            Ok((copy, lock))
        }
        (Err(error), None) => Err(error.into()),
    }
}

/// Returns the plan in a lock, with the files that belong to its run now. Nothing is downloaded.
pub fn plan_of(
    lock: &Lock,
    path: &Path,
    run: &Path,
    places: &Places,
    report: Reporter,
) -> Result<Plan, Failure> {
    let plan = planned(lock, path, run, places, false, report)?;
    device::check(plan.device)?;
    Ok(plan)
}

/// Returns the plan in a lock. With `downloads`, what is missing is fetched from the Hub.
fn planned(
    lock: &Lock,
    path: &Path,
    run: &Path,
    places: &Places,
    downloads: bool,
    report: Reporter,
) -> Result<Plan, Failure> {
    enter(places, report)?;
    let mut recipe = Lock::recipe(path, run)?;
    places.apply(lock, &mut recipe)?;
    let base = lock
        .pinned_base()
        .map(|id| {
            if downloads {
                hub::locked(&id, &recipe, places.base(), report)
            } else {
                hub::pinned(&id, &recipe, places.base())
            }
        })
        .transpose()?;
    let datasets = hub::locked_datasets(lock, &mut recipe, places, downloads.then_some(report))?;
    let fetched = Fetched { base, datasets };
    with_base(crate::plan::resolve_on(
        recipe,
        lock.started(),
        fetched,
        report,
    )?)
}

/// Changes to the folder that the run's paths are relative to.
fn enter(places: &Places, report: Reporter) -> Result<(), Failure> {
    for note in places.notes() {
        report(Event::Note(note.clone()));
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
    report: Reporter,
) -> Result<Lock, Failure> {
    for other in lock.other_surroundings(now) {
        report(Event::Note(other));
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
        report(Event::Note(format!(
            "{change}; going on because of `--force`"
        )));
    }
    lock.record(now, checkpoint.map_or(0, |from| from.state.step), &changes);
    Ok(lock)
}
