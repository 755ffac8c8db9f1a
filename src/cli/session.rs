//! Steps from a plan to an adapter, shared by `train` and `resume`.

use std::cell::{Cell, OnceCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use indicatif::HumanDuration;

use super::card::write_run_card;
use super::device_fault::GoingOn;
use super::gradcheck;
use super::next::print_next;
use super::run_folder::ClaimedRunFolder;
use super::signals::Signals;
use super::{Failure, out_of_memory, plan::facts, print, result};
use crate::device;
use crate::export::card::Base;
use crate::fault::{Exit, Fault, shell_word};
use crate::files::license::Notices;
use crate::infer::Answerer;
use crate::model::Decoder;
use crate::panics::Cause;
use crate::plan::{Inputs, Lock, MemoryPlan, Plan, RunData};
use crate::report::{Event, JsonLines, Reporter, TensorBoard, Terminal};
use crate::train::{self, Answer, Checkpoint, Product, Prompts, RunFolder, Start, State};

/// Width of the product for the speed measurement: about 50 ms on a CPU.
const PRODUCT_WIDTH: usize = 512;
/// Fraction of the product's speed that a training step reaches; see LOG.md.
const EFFICIENCY: f64 = 0.3;

/// A run that is about to start.
pub(super) struct Session<'a> {
    pub plan: &'a Plan,
    pub inputs: Inputs,
    pub signals: &'a Signals,
    pub terminal: &'a Terminal,
    pub room: &'a ClaimedRunFolder,
    /// Checkpoint to resume from.
    pub checkpoint: Option<Checkpoint>,
    /// Whether to train on a device that is not proven.
    pub force: bool,
    /// Whether to train on a device without proving it first.
    pub skip_proof: bool,
    pub json: bool,
    /// Command that started the run, if it was started from a recipe.
    pub command: Option<&'a str>,
    /// The same command, without the overrides that another run from its adapter would set again.
    pub again: &'a str,
}

/// Progress of a session.
struct Seen {
    /// Memory plan, once known.
    planned: OnceCell<MemoryPlan>,
    /// Whether the output folder already holds files of this run.
    has_begun: Cell<bool>,
}

impl Session<'_> {
    /// Trains and prints the result. `lock` is called after everything is read, and may wait for
    /// hashes.
    pub fn run(self, lock: impl FnOnce() -> Result<Lock, Failure>) -> Result<(), Failure> {
        let (plan, terminal, start, options) =
            (self.plan, self.terminal, self.command, self.options());
        let seen = Seen {
            planned: OnceCell::new(),
            has_begun: Cell::new(start.is_none()),
        };
        // burn reports a device that fails or runs out of memory only by a panic.
        let ended = catch_unwind(AssertUnwindSafe(|| self.carry_out(lock, &seen)));
        ended.unwrap_or_else(|panic| {
            terminal.stop();
            let run = GoingOn {
                plan,
                start,
                has_begun: seen.has_begun.get(),
                options,
            };
            match Cause::of(&*panic) {
                Cause::OutOfMemory(said) => {
                    Err(out_of_memory::during(&run, seen.planned.get(), &said))
                }
                Cause::Device(fault) => Err(run.after(&fault)),
                Cause::Internal(_) => resume_unwind(panic),
            }
        })
    }

    /// Returns options without which `resume` might refuse the device.
    fn options(&self) -> &'static str {
        match (self.force, self.skip_proof) {
            (false, false) => "",
            (true, false) => " --force",
            (false, true) => " --skip-proof",
            (true, true) => " --force --skip-proof",
        }
    }

    fn carry_out(
        mut self,
        lock: impl FnOnce() -> Result<Lock, Failure>,
        seen: &Seen,
    ) -> Result<(), Failure> {
        let (plan, terminal) = (self.plan, self.terminal);
        let report = |event| terminal.take(&event);
        // Files that accompany the weights are read now: an unreadable one should be reported
        // before training, and the base may be gone afterwards.
        let (notices, base, product) = (
            Notices::read(&plan.base_folder)?,
            Base::of(&plan.base_folder),
            plan.product()?,
        );
        let device = device::open(plan.device)?;
        let data = plan.read_data(&report)?;
        let (mut config, memory) = plan.prepare(&data);
        let locked = memory.chosen;
        let memory = self.check_memory(memory)?;
        config.step.memory = memory.chosen;
        let memory = seen.planned.get_or_init(|| memory);
        if !self.skip_proof {
            gradcheck::before_training(plan, memory.storage(), &device, self.force, &report)?;
        }
        let done = self.checkpoint.as_ref().map_or(0, |from| from.state.step);
        let flops_per_second =
            device::product_flops_per_second(&device, PRODUCT_WIDTH, plan.storage.dtype);
        announce(
            terminal,
            plan,
            &data,
            (&config, memory),
            done,
            flops_per_second,
        );
        let mut decoder =
            plan.load_model(memory.storage(), &device, self.checkpoint.as_ref(), &report)?;

        let mut lock = lock()?;
        lock.describe(plan, &data, locked, memory);
        if let Some(path) = self.inputs.changed() {
            let fault = Fault::new(format!("`{}` changed while it was read", path.display()));
            return Err(Failure::new(
                Exit::Input,
                fault.hint("start the command again when nobody writes to it"),
            ));
        }
        // From here on the loop handles signals. It starts soon, and removes the files of a run
        // that takes no step.
        self.signals.looping.store(true, Relaxed);
        if self.command.is_some() {
            self.room.clear(&data.cache_entries())?;
            self.signals.leaves(self.room.traces(true));
        }
        lock.write(&plan.output_dir.join(RunFolder::LOCK))?;
        seen.has_begun.set(true);
        let start = match self.checkpoint.take() {
            None => Start::fresh(config.optimizer, &decoder),
            Some(checkpoint) => {
                checkpoint.restore_product(&plan.output_dir)?;
                checkpoint.start(config.optimizer, &decoder)?
            }
        };
        let mut folder = open_folder(plan, product, &lock, &start.state, &report)?;
        let outcome = self.learn(&mut decoder, &data, &config, &mut folder, start);
        if let Some(path) = self.inputs.changed() {
            terminal.say(&format!("note: {}", changed_meanwhile(path)));
        }
        drop(folder);
        let state = outcome.map_err(|error| match error {
            train::TrainError::Stopped { step, .. } => self.stopped(step),
            error => going_on(error, &plan.output_dir),
        })?;

        let result = result::object(&plan.output_dir, &state, &data);
        result::write(&plan.output_dir, &result)?;
        write_run_card(plan, &lock, &result, base, &notices)?;
        for remark in remarks(&state, &config) {
            terminal.say(&format!("note: {remark}"));
        }
        if self.json {
            return print(result);
        }
        result::print_lines(&plan.output_dir, &result)?;
        print_next(plan, self.command.map(|_| self.again))
    }

    /// Makes the failure of a run that the user ended: what is saved, and how to continue.
    fn stopped(&self, step: u64) -> Failure {
        let resume = format!(
            "rankine resume {}{}",
            shell_word(&self.plan.output_dir.display().to_string()),
            self.options()
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
        self.terminal.say(&said);
        Failure::quiet(exit)
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
            self.terminal.say(&format!(
                "note: {now} blocks recompute, up to here {} did: less memory is free",
                before.recomputed
            ));
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

    /// Takes the remaining steps, and reports them to the terminal and TensorBoard.
    fn learn(
        &self,
        decoder: &mut Decoder,
        data: &RunData,
        config: &train::TrainConfig,
        folder: &mut RunFolder,
        start: Start,
    ) -> Result<State, train::TrainError> {
        let (plan, terminal, interrupt) = (self.plan, self.terminal, &self.signals.interrupt);
        let answerer = Answerer::new(&plan.encoder);
        let texts: Vec<String> = plan
            .prompts
            .iter()
            .map(|question| question.text.clone())
            .collect();
        let answer = |decoder: &Decoder, place: usize| {
            let said = answerer.answer(decoder, &plan.prompts[place], || interrupt.load(Relaxed));
            match said {
                Ok(Some(text)) => Answer::Text(text),
                Ok(None) => Answer::Stopped,
                Err(error) => Answer::Failed(error.to_string()),
            }
        };
        let data = train::Data {
            prompts: Some(Prompts {
                texts: &texts,
                answer: &answer,
            }),
            ..data.rows()
        };
        let board = show_on_board(plan, &start.state);
        terminal.start(start.state.step, config.schedule.total_steps);
        let outcome = train::run(decoder, &data, config, folder, start, interrupt, &|event| {
            self.signals
                .stepped
                .fetch_or(matches!(event, Event::Step(_)), Relaxed);
            self.signals
                .saved
                .fetch_or(matches!(event, Event::Saved { .. }), Relaxed);
            terminal.take(&event);
            board
                .take(&event)
                .into_iter()
                .for_each(|warning| terminal.take(&Event::Note(warning)));
        });
        board
            .finish()
            .into_iter()
            .for_each(|warning| terminal.take(&Event::Note(warning)));
        terminal.stop();
        outcome
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
fn going_on(error: train::TrainError, run: &Path) -> Failure {
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

/// Prints what will happen and the estimated time.
fn announce(
    terminal: &Terminal,
    plan: &Plan,
    data: &RunData,
    (config, memory): (&train::TrainConfig, &MemoryPlan),
    done: u64,
    flops_per_second: f64,
) {
    // Only the peak memory and the number of recomputed blocks; `plan` has the details.
    let of_memory = memory.lines().into_iter().take(2);
    for (what, value) in facts(plan, data, (config, memory))
        .into_iter()
        .chain(of_memory)
    {
        terminal.say(&format!("{what:<22} {value}"));
    }
    if let Some(reason) = memory.offload_reason() {
        terminal.say(&format!("note: the embedding stays {reason}"));
    }
    if config.schedule.warmup_steps >= config.schedule.total_steps {
        let (warmup, total) = (config.schedule.warmup_steps, config.schedule.total_steps);
        terminal.say(&format!(
            "note: the warm-up takes {warmup} of {total} steps, so the learning rate never reaches \
            its peak"
        ));
    }
    let left = 1.0 - done as f64 / config.schedule.total_steps as f64;
    let seconds = left * plan.training_flops(data, config) / (flops_per_second * EFFICIENCY);
    terminal.say(&format!(
        "{:<22} about {}",
        "time",
        HumanDuration(Duration::from_secs_f64(seconds.max(1.0)))
    ));
}
