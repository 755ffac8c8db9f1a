//! The training loop.

use std::time::{Duration, Instant};

use super::checkpoint::{RunFolder, State};
use super::evaluate::evaluate;
use super::optimizer::AdamW;
use super::step::{Gradients, Loss, forward_backward};
use super::{Config, Error};
use crate::data::Rows;
use crate::model::Decoder;
use crate::report::{Evaluation, Event, Reporter, Step, peak_memory_bytes};
use crate::terms::OnNonfinite;

const SAVE_EVERY: Duration = Duration::from_mins(5);

/// The rows of a run.
#[derive(Debug)]
pub struct Data<'a> {
    /// Rows to train on.
    pub training: Rows<'a>,
    /// Rows to score on, which no step sees.
    pub validation: Vec<Rows<'a>>,
    /// Tokens that end a turn or a document.
    pub end_ids: Vec<i32>,
}

/// Trains the adapters that are attached to `decoder` and leaves the run in its folder; returns its last state.
///
/// # Errors
/// A loss or gradient was not finite and the config says to abort, no step left an adapter to keep, or a file could not be written.
pub fn run(decoder: &mut Decoder, data: &Data, config: &Config, folder: &RunFolder, report: Reporter) -> Result<State, Error> {
    let mut optimizer = AdamW::new(config.optimizer, decoder);
    let mut state = State::default();
    let score =
        |decoder: &Decoder, step| evaluate(decoder, data, config.micro_batch_size, config.step.head_chunk_rows, step, report);
    state.eval_loss_first = score(decoder, 0).map(|evaluation| evaluation.eval_loss);

    let (started, mut saved, mut order) = (Instant::now(), Instant::now(), (u64::MAX, Vec::new()));
    let (rows, last, mut kept) = (data.training.len(), config.schedule.total_steps, false);
    for step in 1..=last {
        let of_step = config.rows_of_step(step, rows);
        if order.0 != of_step.epoch {
            order = (of_step.epoch, config.order(of_step.epoch, rows));
        }
        let epoch = of_step.epoch as f64 + of_step.places.end as f64 / rows as f64;
        let taken = take(decoder, &mut optimizer, data, config, step, &order.1[of_step.places], of_step.epoch);
        if taken.skipped && config.on_nonfinite == OnNonfinite::Abort {
            let save = || folder.save_checkpoint(decoder, &optimizer, &state, config.save_total_limit);
            let checkpoint = (state.step > 0).then(save).transpose()?;
            return Err(Error::Diverged { step, loss: taken.loss, grad_norm: taken.grad_norm, checkpoint });
        }
        state = State { step, updates: optimizer.updates, tokens: state.tokens + taken.tokens, loss: Some(taken.loss), ..state };
        state.seconds = started.elapsed().as_secs_f64();
        report(Event::Step(Step { epoch, ..taken }));

        let mut done = step == last;
        if done || is_due(step, config.eval_steps, of_step.ends_epoch) {
            let evaluation = score(decoder, step);
            if optimizer.updates > 0 && state.judge(evaluation.as_ref()) {
                report(Event::Saved { path: folder.save_adapter(decoder)?, step });
                kept = true;
            }
            done |= config.early_stopping_patience > 0 && state.evaluations_without_improvement >= config.early_stopping_patience;
        }
        if done || is_due(step, config.save_steps, of_step.ends_epoch || saved.elapsed() >= SAVE_EVERY) {
            report(Event::Saved { path: folder.save_checkpoint(decoder, &optimizer, &state, config.save_total_limit)?, step });
            saved = Instant::now();
        }
        if done {
            break;
        }
    }
    if kept { Ok(state) } else { Err(Error::NothingLearned { steps: state.step }) }
}

/// One optimizer step over rows at `places`; skipped, with the weights as they were, if a loss, gradient or new weight is not finite.
fn take(
    decoder: &mut Decoder,
    optimizer: &mut AdamW,
    data: &Data,
    config: &Config,
    step: u64,
    places: &[u32],
    epoch: u64,
) -> Step {
    let started = Instant::now();
    let (mut gradients, mut sum, mut trained_tokens, mut tokens) = (Gradients::default(), 0.0, 0, 0);
    for places in places.chunks(config.micro_batch_size) {
        let batch = data.training.batch(places);
        let loss: Loss = forward_backward(decoder, &batch, config.step, [config.seed, epoch], &mut gradients);
        (sum, trained_tokens, tokens) = (sum + loss.sum, trained_tokens + loss.trained_tokens, tokens + batch.tokens);
    }
    // Once, by the trained tokens of the whole step: micro-batches of any size give the same mean.
    let mean = 1.0 / trained_tokens as f64;
    let gradients = gradients.scaled(mean);
    let (loss, grad_norm, learning_rate) = (sum * mean, gradients.norm(), config.schedule.lr_at(step - 1));
    let is_finite = loss.is_finite() && grad_norm.is_finite();
    let clipped = if config.max_grad_norm > 0.0 { gradients.clipped(grad_norm, config.max_grad_norm) } else { gradients };
    let skipped = !(is_finite && optimizer.update(decoder, clipped, learning_rate));
    let tokens_per_second = tokens as f64 / started.elapsed().as_secs_f64();
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
        skipped,
    }
}

fn is_due(step: u64, every: u64, otherwise: bool) -> bool {
    if every > 0 { step.is_multiple_of(every) } else { otherwise }
}

impl State {
    /// Takes note of an evaluation; true if the adapter as it is now is the one to keep.
    fn judge(&mut self, evaluation: Option<&Evaluation>) -> bool {
        let Some(evaluation) = evaluation else { return true };
        let better = evaluation.eval_loss.is_finite() && self.eval_loss_best.is_none_or(|best| evaluation.eval_loss < best);
        if better {
            (self.eval_loss_best, self.best_step) = (Some(evaluation.eval_loss), Some(evaluation.step));
            self.evaluations_without_improvement = 0;
        } else {
            self.evaluations_without_improvement += 1;
        }
        better
    }
}
