//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::checkpoint::RunFolder;
use super::course::{Course, StepRows};
use super::evaluate::evaluate;
use super::gradients::Gradients;
use super::loss_scale::LossScale;
use super::observe::{FiniteBorders, Observer};
use super::optimizer::Optimizer;
use super::resume::Start;
use super::samples::{Prompts, samples};
use super::state::State;
use super::step::{Loss, observed};
use super::{Config, Error};
use crate::data::{Batch, Rows};
use crate::device;
use crate::model::Decoder;
use crate::report::{Event, Reporter, Step, peak_memory_bytes};
use crate::terms::OnNonfinite;

const SAVE_EVERY: Duration = Duration::from_mins(5);
/// Skipped steps in a row after which no later step is expected to be better.
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
    /// What is asked at each evaluation.
    pub prompts: Option<Prompts<'a>>,
}

/// Trains the weights of `decoder` that are to train and leaves the run in its folder; returns its last state. A raised `interrupt` ends it
/// after the step that is being taken.
///
/// # Errors
/// The run was stopped; a loss or gradient was not finite and the config says to abort; no step left an adapter to keep; or a file could
/// not be written.
pub fn run(
    decoder: &mut Decoder,
    data: &Data,
    config: &Config,
    folder: &mut RunFolder,
    start: Start,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<State, Error> {
    let Start { mut state, mut optimizer } = start;
    let (started, before) = (Instant::now(), state.seconds);
    let (mut is_new, mut saved_at, mut course) = (false, Instant::now(), Course::new(config, &data.training));
    let (rows, last, first, computed) = (data.training.per_epoch(), config.schedule.total_steps, state.step, decoder.computed);
    loop {
        if state.evaluation_due {
            optimizer.rest(decoder);
        }
        if state.evaluation_due
            && let Ok(evaluation) = evaluate(decoder, data, config, state.step, interrupt, report)
            && let Ok(samples) = samples(decoder, data.prompts.as_ref(), state.step, report)
        {
            if let Some(evaluation) = &evaluation {
                folder.metrics.append(evaluation)?;
                report(Event::Evaluated(evaluation.clone()));
            }
            for sample in samples {
                folder.samples.as_mut().map_or(Ok(()), |lines| lines.append(&sample))?;
                report(Event::Sampled(sample));
            }
            if state.judge(evaluation.as_ref()) {
                folder.save_product(decoder)?;
            }
            is_new = state.step > 0;
        }
        state.seconds = before + started.elapsed().as_secs_f64();
        let (done, stopped, ends_epoch) = (config.is_done(&state), interrupt.load(Relaxed), state.place == rows as u64);
        let due = done || stopped || state.best_step == Some(state.step);
        let due = due || is_due(state.step, config.save_steps, ends_epoch || saved_at.elapsed() >= SAVE_EVERY);
        if due && is_new {
            optimizer.rest(decoder);
            let path = folder.save_checkpoint(decoder, &optimizer, &state, config.save_total_limit)?;
            report(Event::Saved { path, step: state.step });
            saved_at = Instant::now();
        }
        match (done, stopped, state.best_step) {
            (true, _, None) => return Err(Error::NothingLearned { steps: state.step }),
            (true, ..) => return Ok(state),
            (_, true, _) => return Err(Error::Stopped { step: state.step, run: folder.path.clone() }),
            _ => {}
        }

        let of_step = course.after(state.epoch, state.place);
        let attempt = |loss_scale| {
            let mut borders = FiniteBorders::after(state.step - first);
            let at = At { step: state.step + 1, epoch: of_step.epoch, loss_scale };
            (take(decoder, &mut optimizer, batches(data, &of_step), config, at, &mut borders), borders)
        };
        let scale = LossScale::of(computed, state.loss_scale);
        let (taken, borders, scale) = LossScale::carry(scale, attempt, |note| report(Event::Note(note)));
        state.loss_scale = scale;
        if taken.skipped && config.gives_up(&state) {
            optimizer.rest(decoder);
            let save = || folder.save_checkpoint(decoder, &optimizer, &state, config.save_total_limit);
            let (step, in_a_row) = (taken.step, state.skipped_in_a_row + 1);
            let checkpoint = (state.step > 0).then(save).transpose()?;
            let Step { loss, grad_norm, .. } = taken;
            return Err(Error::Diverged { step, in_a_row, loss, grad_norm, block: borders.block, checkpoint });
        }
        (state, is_new) = (state.after(&taken, &optimizer, &of_step), true);
        state.evaluation_due = state.step == last || is_due(state.step, config.eval_steps, of_step.places.end == rows);
        let taken = Step { epoch: of_step.epoch as f64 + of_step.places.end as f64 / rows as f64, ..taken };
        folder.metrics.append(&taken)?;
        report(Event::Step(taken));
    }
}

/// Takes the step that a run would take first, to tell how fast it is.
pub fn first_step(decoder: &mut Decoder, data: &Data, config: &Config) -> Step {
    let mut optimizer = Optimizer::new(config.optimizer, decoder);
    let of_step = Course::new(config, &data.training).after(0, 0);
    let at = At { step: 1, epoch: 0, loss_scale: LossScale::factor(LossScale::of(decoder.computed, None)) };
    take(decoder, &mut optimizer, batches(data, &of_step), config, at, &mut ())
}

/// The micro-batches of a step, each made when it is its turn.
fn batches<'a>(data: &'a Data, of_step: &'a StepRows) -> impl Iterator<Item = Batch> + 'a {
    of_step.micro_batches.iter().map(|rows| data.training.batch(rows))
}

/// Which step is taken.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Its number, from 1.
    pub step: u64,
    /// From 0.
    pub epoch: u64,
    /// What gradients are multiplied by while they are computed.
    pub loss_scale: f64,
}

/// One optimizer step over micro-batches; skipped, with the weights as they were, if a loss, gradient or new weight is not finite, or who
/// looks on does not accept it.
pub fn take(
    decoder: &mut Decoder,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = Batch>,
    config: &Config,
    At { step, epoch, loss_scale }: At,
    observer: &mut impl Observer,
) -> Step {
    let started = Instant::now();
    optimizer.go_on(decoder);
    let (mut gradients, mut sum, mut trained_tokens, mut tokens) = (Gradients::of(loss_scale), 0.0, 0, 0);
    for batch in batches {
        let loss: Loss = observed(decoder, &batch, config.step, [config.seed, epoch], &mut gradients, observer);
        (sum, trained_tokens, tokens) = (sum + loss.sum, trained_tokens + loss.trained_tokens, tokens + batch.tokens());
    }
    // Once, by the trained tokens of the whole step: micro-batches of any size give the same mean.
    let mean = 1.0 / trained_tokens as f64;
    let gradients = gradients.scaled(mean);
    observer.step(&gradients);
    let (loss, grad_norm) = (sum * mean, gradients.norm());
    let learning_rate = optimizer.learning_rate(config.schedule.lr_at(step - 1));
    let is_finite = observer.accepts() && loss.is_finite() && grad_norm.is_finite();
    let clipped = if config.max_grad_norm > 0.0 { gradients.clipped(grad_norm, config.max_grad_norm) } else { gradients };
    let skipped = !(is_finite && optimizer.update(decoder, clipped, learning_rate));
    let tokens_per_second = tokens as f64 / started.elapsed().as_secs_f64();
    let device_peak_memory_bytes = device::peak_memory_bytes(&decoder.device());
    let peak_memory_bytes = peak_memory_bytes();
    Step {
        step,
        epoch: 0.0,
        loss,
        learning_rate,
        grad_norm,
        tokens,
        trained_tokens,
        tokens_per_second,
        peak_memory_bytes,
        device_peak_memory_bytes,
        skipped,
    }
}

fn is_due(step: u64, every: u64, otherwise: bool) -> bool {
    if every > 0 { step.is_multiple_of(every) } else { otherwise }
}

impl Config {
    /// Whether there is nothing left to do.
    fn is_done(&self, state: &State) -> bool {
        let patience = self.early_stopping_patience;
        let is_stale = patience > 0 && state.evaluations_without_improvement >= patience;
        !state.evaluation_due && (state.step >= self.schedule.total_steps || is_stale)
    }

    /// Whether one more skipped step ends the run.
    fn gives_up(&self, state: &State) -> bool {
        self.on_nonfinite == OnNonfinite::Abort || state.skipped_in_a_row + 1 >= MAX_SKIPPED_IN_A_ROW
    }
}
