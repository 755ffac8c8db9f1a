//! A session of a run: from a plan to its adapter or model, shared by new and continued runs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use indicatif::HumanDuration;
use serde_json::Value;

use super::card::write_run_card;
use super::device_fault::GoingOn;
use super::folder::ClaimedRunFolder;
use super::inputs::{Hashing, Inputs};
use super::lock::Lock;
use super::plan_lines::plan_lines;
use super::self_check::check_before_training;
use super::signals::Signals;
use super::{out_of_memory, reference, result, teacher};
use crate::device;
use crate::export::card::Base;
use crate::fault::{Exit, Failure, Fault, shell_word};
use crate::files::license::Notices;
use crate::infer::Answerer;
use crate::ops::product_flops_per_second;
use crate::panics::Cause;
use crate::plan::{MemoryPlan, Plan, RunData};
use crate::report::{Event, JsonLines, Reporter, TensorBoard};
use crate::train::{self, Checkpoint, Product, Prompts, RunFolder, Start, State, TrainError};

/// Width of the product for the speed measurement: about 50 ms on a CPU.
const PRODUCT_WIDTH: usize = 512;
/// Fraction of the product's speed that a training step reaches; see LOG.md.
const EFFICIENCY: f64 = 0.3;

/// A run that is about to start or to be continued.
pub struct Session<'a> {
    pub plan: Plan,
    pub inputs: Inputs,
    pub folder: ClaimedRunFolder,
    /// The command that starts the run; `None` if the run is continued.
    pub command: Option<String>,
    pub device_check: DeviceCheck,
    pub signals: &'a Signals,
    pub report: Reporter<'a>,
}

/// Beginning of a session.
#[allow(clippy::large_enum_variant, reason = "one a run")]
pub enum Beginning {
    /// At step 0 of a new run. Hashing continues while rows are tokenized and the base is loaded.
    New { threads: usize, hashing: Hashing },
    /// After a checkpoint, or at step 0 if there is none.
    Resumed {
        lock: Lock,
        checkpoint: Option<Checkpoint>,
    },
}

/// Handling of a device that is not proven.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceCheck {
    /// Whether to train on a device that failed the check.
    pub force: bool,
    /// Whether to train without checking first.
    pub skip: bool,
}

/// A run whose training is finished.
#[derive(Debug)]
pub struct Finished {
    /// The plan that was carried out.
    pub plan: Plan,
    /// The result, as it is in the run's folder.
    pub result: Value,
}

/// Progress of a session, which a failing device leaves behind.
struct Progress {
    /// The memory plan, once known.
    memory: Option<MemoryPlan>,
    /// Whether the output folder already holds files of this run.
    has_begun: bool,
}

impl DeviceCheck {
    /// Returns the options without which `resume` might refuse the device.
    fn options(self) -> &'static str {
        match (self.force, self.skip) {
            (false, false) => "",
            (true, false) => " --force",
            (false, true) => " --skip-proof",
            (true, true) => " --force --skip-proof",
        }
    }
}

impl Beginning {
    fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::New { .. } => None,
            Self::Resumed { checkpoint, .. } => checkpoint.as_ref(),
        }
    }
}

impl Session<'_> {
    /// Trains up to the end of the run.
    ///
    /// # Errors
    /// Those of [`super::train`] and [`super::resume`].
    pub fn run(self, beginning: Beginning) -> Result<Finished, Failure> {
        let mut progress = Progress {
            memory: None,
            has_begun: self.command.is_none(),
        };
        // burn reports a device that fails or runs out of memory only by a panic.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            self.carry_out(beginning, &mut progress)
        }));
        match ended {
            Ok(result) => Ok(Finished {
                result: result?,
                plan: self.plan,
            }),
            Err(panic) => Err(self.device_failure(panic, &progress)),
        }
    }

    fn carry_out(&self, beginning: Beginning, progress: &mut Progress) -> Result<Value, Failure> {
        let (plan, signals, report) = (&self.plan, self.signals, self.report);
        // Files that accompany the weights are read now: an unreadable one should be reported
        // before training, and the base may be gone afterwards.
        let notices = Notices::read(&plan.base_folder)?;
        let base = Base::of(&plan.base_folder);
        let product = plan.product()?;

        // Rows, memory, device.
        let device = device::open(plan.device)?;
        let mut data = plan.read_data(report)?;
        let (mut config, memory) = plan.prepare(&data);
        let locked = memory.chosen;
        let memory = &*progress.memory.insert(self.check_memory(memory)?);
        config.step.memory = memory.chosen;
        if !self.device_check.skip {
            let force = self.device_check.force;
            check_before_training(plan, memory.storage(), force, report)?;
        }
        let speed = product_flops_per_second(&device, PRODUCT_WIDTH, plan.storage.dtype);
        let from = beginning.checkpoint();
        announce(plan, &data, (&config, memory), from, speed, report);
        reference::score(plan, &mut data, &config, memory.storage(), report)?;
        teacher::read_out(plan, &mut data, &config, report)?;
        let teacher = teacher::load_teacher(plan, report)?;
        let mut decoder = plan.load_model(memory.storage(), &device, from, report)?;

        let (lock, checkpoint) = self.lock(beginning, &data, locked, memory)?;

        // From here on the loop handles signals. It starts soon, and removes the files of a run
        // that takes no step.
        signals.looping.store(true, Relaxed);
        if self.command.is_some() {
            self.folder.clear(&data.cache_entries())?;
            signals.leaves(self.folder.traces(true));
        }
        lock.write(&plan.output_dir.join(RunFolder::LOCK))?;
        progress.has_begun = true;
        let start = match checkpoint {
            None => Start::fresh(config.optimizer, &decoder),
            Some(checkpoint) => {
                checkpoint.restore_product(&plan.output_dir)?;
                checkpoint.start(config.optimizer, &decoder)?
            }
        };

        // Training.
        let mut folder = open_folder(plan, product, &lock, &start.state, report)?;
        let rows = train::Data {
            prompts: Some(Prompts {
                prompts: &plan.prompts,
                answerer: Answerer::new(&plan.encoder),
            }),
            teacher: teacher.as_ref(),
            ..data.rows()
        };
        let board = show_on_board(plan, &start.state);
        let warn = |warning: Option<String>| {
            if let Some(warning) = warning {
                report(Event::Note(warning));
            }
        };
        let tell = |event: Event| {
            signals.hear(&event);
            let warning = board.take(&event);
            report(event);
            warn(warning);
        };
        let (step, steps) = (start.state.step, config.schedule.total_steps);
        report(Event::Started { step, steps });
        let outcome = train::run(
            &mut decoder,
            &rows,
            &config,
            &mut folder,
            start,
            &signals.interrupt,
            &tell,
        );
        warn(board.finish());
        report(Event::Ended);
        if let Some(path) = self.inputs.changed() {
            report(Event::Note(changed_meanwhile(path)));
        }
        drop(folder);
        let state = outcome.map_err(|error| match error {
            TrainError::Stopped { step, .. } => self.stopped(step),
            error => going_on(error, &plan.output_dir),
        })?;

        // The result and the card.
        let result = result::object(&plan.output_dir, &state, &data);
        result::write(&plan.output_dir, &result)?;
        write_run_card(plan, &lock, &result, base, &notices)?;
        for remark in remarks(&state, &config) {
            report(Event::Note(remark));
        }
        Ok(result)
    }

    /// Returns the lock of the run and the checkpoint to continue from, once everything is read.
    fn lock(
        &self,
        beginning: Beginning,
        data: &RunData,
        chosen: train::Memory,
        memory: &MemoryPlan,
    ) -> Result<(Lock, Option<Checkpoint>), Failure> {
        let (mut lock, checkpoint) = match beginning {
            Beginning::New { threads, hashing } => {
                let command = self.command.as_deref().unwrap_or_default();
                let hashes = hashing.finish()?;
                (Lock::new(&self.plan, command, threads, hashes), None)
            }
            Beginning::Resumed { lock, checkpoint } => (lock, checkpoint),
        };
        lock.describe(&self.plan, data, chosen, memory);
        if let Some(path) = self.inputs.changed() {
            let fault = Fault::new(format!("`{}` changed while it was read", path.display()));
            return Err(Failure::new(
                Exit::Input,
                fault.hint("start the command again when nobody writes to it"),
            ));
        }
        Ok((lock, checkpoint))
    }

    /// Makes the failure of a run whose device failed. Any other panic goes on.
    fn device_failure(&self, panic: Box<dyn Any + Send>, progress: &Progress) -> Failure {
        (self.report)(Event::Ended);
        let run = GoingOn {
            plan: &self.plan,
            start: self.command.as_deref(),
            has_begun: progress.has_begun,
            options: self.device_check.options(),
        };
        match Cause::of(&*panic) {
            Cause::OutOfMemory(said) => {
                out_of_memory::during(&run, progress.memory.as_ref(), &said)
            }
            Cause::Device(fault) => run.after(&fault),
            Cause::Internal(_) => resume_unwind(panic),
        }
    }

    /// Makes the failure of a run that was told to stop: what is saved, and how to continue.
    fn stopped(&self, step: u64) -> Failure {
        let resume = format!(
            "rankine resume {}{}",
            shell_word(&self.plan.output_dir.display().to_string()),
            self.device_check.options()
        );
        let (said, exit) = match step {
            0 if self.command.is_some() => {
                self.signals.remove_traces();
                (
                    "stopped before the first step: nothing is left of the run".to_owned(),
                    Exit::Signal,
                )
            }
            0 => (
                format!("stopped before the first step. Continue with `{resume}`"),
                Exit::Signal,
            ),
            step => (
                format!("stopped at step {step}, saved. Continue with `{resume}`"),
                Exit::Interrupted,
            ),
        };
        Failure::new(exit, Fault::new(said))
    }

    /// Refuses a run that would need more memory than allowed.
    ///
    /// A resumed run may find less memory than at its start. Then more of its blocks are
    /// recomputed, with the same result to the bit; the rest of its recipe is fixed.
    fn check_memory(&self, memory: MemoryPlan) -> Result<MemoryPlan, Failure> {
        if self.command.is_some() {
            return Ok(memory.check().map(|()| memory)?);
        }
        let (before, memory) = (memory.chosen, memory.relieved());
        if memory.chosen != before {
            let now = memory.chosen.recomputed;
            (self.report)(Event::Note(format!(
                "{now} blocks recompute, up to here {} did: less memory is free",
                before.recomputed
            )));
        }
        let checked = memory.check().map(|()| memory);
        checked.map_err(|error| {
            let mut failure = Failure::from(error);
            if let Some(last) = failure.faults.last_mut() {
                last.hint = Some("free memory, or go on where there is more of it".to_owned());
            }
            failure
        })
    }
}

/// Opens the run's folder, with its files of lines truncated to the state.
fn open_folder(
    plan: &Plan,
    product: Product,
    lock: &Lock,
    state: &State,
    report: Reporter,
) -> Result<RunFolder, Failure> {
    let lines = |name, bytes| JsonLines::open(&plan.output_dir.join(name), bytes, report);
    Ok(RunFolder {
        path: plan.output_dir.clone(),
        product,
        lock: lock.text(),
        metrics: lines(RunFolder::METRICS, state.metrics_bytes)?,
        samples: (!plan.prompts.is_empty())
            .then(|| lines(RunFolder::SAMPLES, state.samples_bytes))
            .transpose()?,
    })
}

/// Starts event files for TensorBoard from the state on. An evaluation that is still due belongs to
/// the step that was taken.
fn show_on_board(plan: &Plan, state: &State) -> TensorBoard {
    let first = if state.evaluation_due {
        state.step
    } else {
        state.step + 1
    };
    let at = |name: &str| plan.output_dir.join(name);
    TensorBoard::start(&at(RunFolder::TENSORBOARD), first, &at(RunFolder::METRICS))
}

/// Converts the error of a run, and adds how to continue if the disk failed.
fn going_on(error: TrainError, run: &Path) -> Failure {
    let mut failure = Failure::from(error);
    if let (Exit::Io, Some(last)) = (failure.exit, failure.faults.last_mut()) {
        let mend = last.hint.take().unwrap_or_else(|| "mend that".to_owned());
        last.hint = Some(format!(
            "{mend}, then go on with `rankine resume {}`",
            shell_word(&run.display().to_string())
        ));
    }
    failure
}

fn changed_meanwhile(path: &Path) -> String {
    format!(
        "`{}` changed during the run: what was trained goes with what it was, whose hash is in the \
        lock",
        path.display()
    )
}

/// Returns notes for the user on how the run went.
fn remarks(state: &State, config: &train::TrainConfig) -> Vec<String> {
    let (skipped, last) = (state.step - state.updates, config.schedule.total_steps);
    let without = state.evaluations_without_improvement;
    let early = || {
        format!(
            "stopped at step {} of {last}: {without} evaluations without a lower loss",
            state.step
        )
    };
    let worse = |(first, best)| {
        format!("the base scores {first:.4}, what was trained on it {best:.4}, which is no better")
    };
    let scores = state
        .eval_loss_first
        .zip(state.eval_loss_best)
        .filter(|(first, best)| best >= first);
    let skips = (skipped > 0).then(|| {
        format!(
            "{skipped} of {} steps were skipped: their loss or gradients were not finite",
            state.step
        )
    });
    [(state.step < last).then(early), scores.map(worse), skips]
        .into_iter()
        .flatten()
        .collect()
}

/// Reports what will happen and the estimated time of what is left after a checkpoint.
fn announce(
    plan: &Plan,
    data: &RunData,
    (config, memory): (&train::TrainConfig, &MemoryPlan),
    from: Option<&Checkpoint>,
    flops_per_second: f64,
    report: Reporter,
) {
    // Only the peak memory and the number of recomputed blocks; `plan` has the details.
    let of_memory = memory.lines().into_iter().take(2);
    for (what, value) in plan_lines(plan, data, (config, memory))
        .into_iter()
        .chain(of_memory)
    {
        report(Event::Line(format!("{what:<22} {value}")));
    }
    if let Some(reason) = memory.offload_reason() {
        report(Event::Note(format!("the embedding stays {reason}")));
    }
    let (warmup, total) = (config.schedule.warmup_steps, config.schedule.total_steps);
    if warmup >= total {
        report(Event::Note(format!(
            "the warm-up takes {warmup} of {total} steps, so the learning rate never reaches its \
            peak"
        )));
    }
    let done = from.map_or(0, |from| from.state.step);
    let left = 1.0 - done as f64 / total as f64;
    let seconds = left * plan.training_flops(data, config) / (flops_per_second * EFFICIENCY);
    report(Event::Line(format!(
        "{:<22} about {}",
        "time",
        HumanDuration(Duration::from_secs_f64(seconds.max(1.0)))
    )));
}
