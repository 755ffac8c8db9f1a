//! The training loop.

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
use super::step::{At, StepOutcome, Update, accumulate};
use super::{TrainConfig, TrainError};
use crate::data::{Batch, Rows};
use crate::model::Decoder;
use crate::report::{Evaluation, Event, Reporter, Sample, Step};
use crate::terms::OnNonfinite;

const SAVE_EVERY: Duration = Duration::from_mins(5);
/// Skipped steps in a row after which the run ends, because no later step is expected to be better.
const MAX_SKIPPED_IN_A_ROW: u64 = 5;

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
    let Start {
        mut state,
        mut optimizer,
    } = start;
    let (started, seconds_before, steps_before) = (Instant::now(), state.seconds, state.step);
    let (rows, last) = (data.training.per_epoch(), config.schedule.total_steps);
    let (mut is_new, mut saved_at, mut course) = (
        false,
        Instant::now(),
        StepSampler::new(config, &data.training),
    );
    loop {
        // Evaluate.
        if state.evaluation_due {
            optimizer.rest(decoder);
            if let Ok(evaluation) = evaluate(decoder, data, config, state.step, interrupt, report)
                && let Ok(samples) = samples(decoder, data.prompts.as_ref(), state.step, report)
            {
                log_evaluation(folder, evaluation.as_ref(), samples, report)?;
                if state.judge(evaluation.as_ref()) {
                    folder.save_product(decoder)?;
                }
                is_new = state.step > 0;
            }
        }

        // Save.
        state.seconds = seconds_before + started.elapsed().as_secs_f64();
        let (is_done, is_stopped, ends_epoch) = (
            config.is_done(&state),
            interrupt.load(Relaxed),
            state.place == rows as u64,
        );
        let is_best = state.best_step == Some(state.step);
        let save_is_due = is_due(
            state.step,
            config.save_steps,
            ends_epoch || saved_at.elapsed() >= SAVE_EVERY,
        );
        if is_new && (is_done || is_stopped || is_best || save_is_due) {
            optimizer.rest(decoder);
            let path =
                folder.save_checkpoint(decoder, &optimizer, &state, config.save_total_limit)?;
            report(Event::Saved {
                path,
                step: state.step,
            });
            saved_at = Instant::now();
        }

        // Stop.
        match (is_done, is_stopped, state.best_step) {
            (true, _, None) => return Err(TrainError::NothingLearned { steps: state.step }),
            (true, ..) => return Ok(state),
            (_, true, _) => {
                return Err(TrainError::Stopped {
                    step: state.step,
                    run: folder.path.clone(),
                });
            }
            _ => {}
        }

        // Step.
        let step_rows = course.after(state.epoch, state.place);
        state.loss_scale = LossScale::of(decoder.computed, state.loss_scale);
        let mut scale = state.loss_scale;
        let outcome = loop {
            let at = At {
                step: state.step + 1,
                epoch: step_rows.epoch,
                loss_scale: LossScale::factor(scale),
            };
            let mut borders = FiniteBorders::after(state.step - steps_before);
            optimizer.go_on(decoder);
            let sums = accumulate(decoder, batches(data, &step_rows), config, at, &mut borders);
            let outcome = sums.update(decoder, &mut optimizer, config, borders.first_not_finite());
            // Nothing of a skipped step is kept, so no row is left out when it is taken again.
            let Some(half) = LossScale::to_retry(scale, &outcome) else {
                break outcome;
            };
            report(Event::Note(half.note(at.step)));
            scale = Some(half);
        };
        if let Update::Skipped { block } = outcome.update
            && config.gives_up(&state)
        {
            optimizer.rest(decoder);
            let save =
                || folder.save_checkpoint(decoder, &optimizer, &state, config.save_total_limit);
            let checkpoint = (state.step > 0).then(save).transpose()?;
            let StepOutcome {
                step,
                loss,
                grad_norm,
                ..
            } = outcome;
            return Err(TrainError::Diverged {
                step,
                in_a_row: state.skipped_in_a_row + 1,
                loss,
                grad_norm,
                block,
                checkpoint,
            });
        }

        // Log.
        let step = outcome.report(
            decoder,
            step_rows.epoch as f64 + step_rows.places.end as f64 / rows as f64,
        );
        if !step.skipped {
            // The scale of a skipped step tells nothing.
            state.loss_scale = scale.map(LossScale::after_step);
        }
        (state, is_new) = (state.after(&step, &optimizer, &step_rows), true);
        state.evaluation_due = state.step == last
            || is_due(state.step, config.eval_steps, step_rows.places.end == rows);
        folder.metrics.append(&step)?;
        report(Event::Step(step));
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
    let at = At {
        step: 1,
        epoch: 0,
        loss_scale: LossScale::factor(LossScale::of(decoder.computed, None)),
    };
    optimizer.go_on(decoder);
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
