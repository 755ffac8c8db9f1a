//! The training loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::checkpoint::RunFolder;
use super::evaluate::evaluate;
use super::loss_scale::LossScale;
use super::observe::FiniteBorders;
use super::optimizer::Optimizer;
use super::resume::Start;
use super::sampler::{StepRows, StepSampler};
use super::samples::{Prompts, samples};
use super::state::State;
use super::step::{At, StepOutcome, Update, accumulate, statistics};
use super::{TrainConfig, TrainError};
use crate::data::{Batch, Rows};
use crate::model::Decoder;
use crate::objective::StepStatistics;
use crate::report::{Evaluation, Event, Reporter, Sample, Step};
use crate::terms::OnNonfinite;

const SAVE_EVERY: Duration = Duration::from_mins(5);
/// Skipped steps in a row after which the run ends, because no later step is expected to be better.
const MAX_SKIPPED_IN_A_ROW: u64 = 5;
/// Relative difference from the loss of a policy that is its reference up to which the first loss
/// may be rounded.
const FIRST_LOSS: f64 = 5e-3;

/// The rows of a run.
#[derive(Debug)]
pub struct Data<'a> {
    /// Rows to train on.
    pub training: Rows<'a>,
    /// Rows to score on, which no step sees.
    pub validation: Vec<Rows<'a>>,
    /// Tokens that end a turn or a document.
    pub end_ids: Vec<i32>,
    /// The prompts of each evaluation.
    pub prompts: Option<Prompts<'a>>,
    /// The model that the objective learns from, where rows have no tokens of one.
    pub teacher: Option<&'a Decoder>,
}

/// Trains the weights of `decoder` that are to train and writes the run into its folder; returns
/// its last state. A raised `interrupt` ends it after the current step.
///
/// # Errors
/// The run was stopped; a loss or gradient was not finite and the config says to abort; no step
/// left an adapter to keep; or a file could not be written.
pub fn run(
    decoder: &mut Decoder,
    data: &Data,
    config: &TrainConfig,
    folder: &mut RunFolder,
    start: Start,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<State, TrainError> {
    let (mut state, optimizer) = (start.state, start.optimizer);
    let (started, seconds_before, steps_before) = (Instant::now(), state.seconds, state.step);
    let mut sampler = StepSampler::new(config, &data.training);
    let mut training = Training {
        decoder,
        data,
        config,
        folder,
        optimizer,
        interrupt,
        report,
    };
    let (mut is_new, mut saved_at) = (false, Instant::now());
    loop {
        // Evaluate.
        if state.evaluation_due && training.evaluate(&mut state)? {
            is_new = state.step > 0;
        }

        // Save.
        state.seconds = seconds_before + started.elapsed().as_secs_f64();
        let (is_done, is_stopped) = (config.is_done(&state), interrupt.load(Relaxed));
        let ends_epoch = state.place == data.training.per_epoch() as u64;
        let is_late = ends_epoch || saved_at.elapsed() >= SAVE_EVERY;
        let is_best = state.best_step == Some(state.step);
        let save_is_due = is_best || is_due(state.step, config.save_steps, is_late);
        if is_new && (is_done || is_stopped || save_is_due) {
            training.save(&state)?;
            saved_at = Instant::now();
        }

        // Stop.
        if is_done {
            return state.finished();
        }
        if is_stopped {
            let (step, run) = (state.step, training.folder.path.clone());
            return Err(TrainError::Stopped { step, run });
        }

        // Step.
        let rows = sampler.after(state.epoch, state.place);
        let taken = state.step - steps_before;
        let (outcome, scale) = training.step(&rows, &mut state, taken);
        if state.step == 0 {
            training.check_first_loss(&outcome)?;
        }
        if outcome.is_skipped() && config.gives_up(&state) {
            return Err(training.diverged(&outcome, &state)?);
        }

        // Log.
        (state, is_new) = (training.log(state, &outcome, scale, &rows)?, true);
    }
}

/// What a run trains, and with what.
struct Training<'a> {
    decoder: &'a mut Decoder,
    data: &'a Data<'a>,
    config: &'a TrainConfig,
    folder: &'a mut RunFolder,
    optimizer: Optimizer,
    interrupt: &'a AtomicBool,
    report: Reporter<'a>,
}

impl Training<'_> {
    /// Scores the weights, answers the prompts, and keeps the weights if they are the best so far.
    /// Returns whether it came to an end before an interrupt.
    fn evaluate(&mut self, state: &mut State) -> Result<bool, TrainError> {
        let Self {
            data,
            config,
            interrupt,
            report,
            ..
        } = *self;
        self.optimizer.rest(self.decoder);
        let decoder = &*self.decoder;
        let Ok(evaluation) = evaluate(decoder, data, config, state.step, interrupt, report) else {
            return Ok(false);
        };
        let prompts = data.prompts.as_ref();
        let Ok(samples) = samples(decoder, prompts, state.step, interrupt, report) else {
            return Ok(false);
        };
        log_evaluation(self.folder, evaluation.as_ref(), samples, report)?;
        if state.judge(evaluation.as_ref()) {
            self.folder.save_product(decoder)?;
        }
        Ok(true)
    }

    /// Writes a checkpoint and returns its folder.
    fn checkpoint(&mut self, state: &State) -> Result<PathBuf, TrainError> {
        self.optimizer.rest(self.decoder);
        let limit = self.config.save_total_limit;
        self.folder
            .save_checkpoint(self.decoder, &self.optimizer, state, limit)
    }

    /// Writes a checkpoint and reports it.
    fn save(&mut self, state: &State) -> Result<(), TrainError> {
        let path = self.checkpoint(state)?;
        let step = state.step;
        (self.report)(Event::Saved { path, step });
        Ok(())
    }

    /// Takes a step, the one after `taken` steps of this process. It is taken again at half of the
    /// loss scale as long as that may help; returns the scale at which it was taken last.
    fn step(
        &mut self,
        rows: &StepRows,
        state: &mut State,
        taken: u64,
    ) -> (StepOutcome, Option<LossScale>) {
        let Self { data, config, .. } = *self;
        state.loss_scale = LossScale::of(self.decoder.computed, state.loss_scale);
        let mut scale = state.loss_scale;
        self.optimizer.go_on(self.decoder);
        let statistics = statistics_of(self.decoder, data, rows, config);
        loop {
            let at = At {
                step: state.step + 1,
                epoch: rows.epoch,
                loss_scale: LossScale::factor(scale),
                statistics,
                teacher: data.teacher,
            };
            let mut borders = FiniteBorders::after(taken);
            self.optimizer.go_on(self.decoder);
            let sums = accumulate(self.decoder, batches(data, rows), config, at, &mut borders);
            let not_finite = borders.first_not_finite();
            let outcome = sums.update(self.decoder, &mut self.optimizer, config, not_finite);
            // Nothing of a skipped step is kept, so no row is left out when it is taken again.
            let Some(half) = LossScale::to_retry(scale, &outcome) else {
                return (outcome, scale);
            };
            (self.report)(Event::Note(half.note(at.step)));
            scale = Some(half);
        }
    }

    /// Checks the loss of the first step where it is known, and reports it.
    fn check_first_loss(&self, outcome: &StepOutcome) -> Result<(), TrainError> {
        let Some(expected) = self.config.first_loss.filter(|_| outcome.loss.is_finite()) else {
            return Ok(());
        };
        let loss = outcome.loss;
        if (loss - expected).abs() > FIRST_LOSS * (1.0 + expected) {
            return Err(TrainError::NotTheReference { loss, expected });
        }
        (self.report)(Event::Line(format!(
            "the first loss is {loss:.4}, as it must be where the policy is its reference"
        )));
        Ok(())
    }

    /// Makes the error of a run that a skipped step ends, and saves the weights before it.
    fn diverged(&mut self, outcome: &StepOutcome, state: &State) -> Result<TrainError, TrainError> {
        let block = match outcome.update {
            Update::Skipped { block } => block,
            Update::Made => None,
        };
        let checkpoint = if state.step > 0 {
            Some(self.checkpoint(state)?)
        } else {
            None
        };
        Ok(TrainError::Diverged {
            step: outcome.step,
            in_a_row: state.skipped_in_a_row + 1,
            loss: outcome.loss,
            grad_norm: outcome.grad_norm,
            block,
            checkpoint,
        })
    }

    /// Writes a step down and returns the state after it.
    fn log(
        &mut self,
        mut state: State,
        outcome: &StepOutcome,
        scale: Option<LossScale>,
        rows: &StepRows,
    ) -> Result<State, TrainError> {
        let (config, per_epoch) = (self.config, self.data.training.per_epoch());
        let epoch = rows.epoch as f64 + rows.places.end as f64 / per_epoch as f64;
        let step = outcome.report(self.decoder, epoch);
        if !step.skipped {
            // The scale of a skipped step tells nothing.
            state.loss_scale = scale.map(LossScale::after_step);
        }
        state = state.after(&step, &self.optimizer, rows);
        let ends_epoch = rows.places.end == per_epoch;
        state.evaluation_due = state.step == config.schedule.total_steps
            || is_due(state.step, config.eval_steps, ends_epoch);
        self.folder.metrics.append(&step)?;
        (self.report)(Event::Step(step));
        Ok(state)
    }
}

impl State {
    /// Returns the state of a run that has taken its last step.
    fn finished(self) -> Result<Self, TrainError> {
        match self.best_step {
            Some(_) => Ok(self),
            None => Err(TrainError::NothingLearned { steps: self.step }),
        }
    }
}

fn log_evaluation(
    folder: &mut RunFolder,
    evaluation: Option<&Evaluation>,
    samples: Vec<Sample>,
    report: Reporter,
) -> Result<(), TrainError> {
    if let Some(evaluation) = evaluation {
        folder.metrics.append(evaluation)?;
        report(Event::Evaluated(evaluation.clone()));
    }
    for sample in samples {
        folder
            .samples
            .as_mut()
            .map_or(Ok(()), |lines| lines.append(&sample))?;
        report(Event::Sampled(sample));
    }
    Ok(())
}

/// Takes the first step of a run, to measure its speed.
pub fn first_step(decoder: &mut Decoder, data: &Data, config: &TrainConfig) -> Step {
    let mut optimizer = Optimizer::new(config.optimizer, decoder);
    let rows = StepSampler::new(config, &data.training).after(0, 0);
    optimizer.go_on(decoder);
    let at = At {
        step: 1,
        epoch: 0,
        loss_scale: LossScale::factor(LossScale::of(decoder.computed, None)),
        statistics: statistics_of(decoder, data, &rows, config),
        teacher: data.teacher,
    };
    let sums = accumulate(decoder, batches(data, &rows), config, at, &mut ());
    let outcome = sums.update(decoder, &mut optimizer, config, None);
    outcome.report(decoder, rows.places.end as f64 / data.training.len() as f64)
}

/// Returns the micro-batches of a step, each made when it is needed.
fn batches<'a>(data: &'a Data, of_step: &'a StepRows) -> impl Iterator<Item = Batch> + 'a {
    of_step
        .micro_batches
        .iter()
        .map(|rows| data.training.batch(rows))
}

fn statistics_of(
    decoder: &Decoder,
    data: &Data,
    of_step: &StepRows,
    config: &TrainConfig,
) -> StepStatistics {
    let mismatched = of_step.micro_batches.iter();
    let mismatched = mismatched.map(|rows| data.training.mismatched(rows));
    let (objective, chunk) = (&config.objective, config.step.head_chunk_rows);
    statistics(
        decoder,
        objective,
        chunk,
        batches(data, of_step),
        mismatched,
    )
}

fn is_due(step: u64, every: u64, otherwise: bool) -> bool {
    if every > 0 {
        step.is_multiple_of(every)
    } else {
        otherwise
    }
}

impl TrainConfig {
    /// Whether there is nothing left to do.
    fn is_done(&self, state: &State) -> bool {
        let patience = self.early_stopping_patience;
        let is_stale = patience > 0 && state.evaluations_without_improvement >= patience;
        !state.evaluation_due && (state.step >= self.schedule.total_steps || is_stale)
    }

    /// Whether one more skipped step ends the run.
    fn gives_up(&self, state: &State) -> bool {
        self.on_nonfinite == OnNonfinite::Abort
            || state.skipped_in_a_row + 1 >= MAX_SKIPPED_IN_A_ROW
    }
}
