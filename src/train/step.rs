//! One optimizer step: gradients of its micro-batches, then one update or none.

use std::ops::Add;
use std::time::Instant;

use super::TrainConfig;
use super::gradients::Gradients;
use super::micro_batch::{Goal, Loss, observed, readings_of};
use super::observe::Observer;
use super::optimizer::Optimizer;
use super::pool::pooled_backward;
use super::tree::TreeSum;
use crate::data::Batch;
use crate::device;
use crate::model::Decoder;
use crate::objective::{Figures, Objective, StepStatistics};
use crate::report::{Step, peak_memory_bytes};

/// Number, epoch and loss scale of an attempt at a step, and numbers of all its rows.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Number of the step, from 1.
    pub step: u64,
    /// Pass over the data, from 0.
    pub epoch: u64,
    /// The factor of gradients while they are computed.
    pub loss_scale: f64,
    /// Numbers of the whole step; see [`statistics`].
    pub statistics: StepStatistics,
    /// The model that the objective learns from, if there is one.
    pub teacher: Option<&'a Decoder>,
}

/// Returns the numbers of all units of a step, or of all that are scored, which the loss of each
/// depends on. `batches` are its micro-batches, and `mismatched` those with completions of other
/// rows, read where the objective asks for them.
pub fn statistics(
    decoder: &Decoder,
    objective: &Objective,
    head_chunk_rows: usize,
    batches: impl Iterator<Item = Batch>,
    mismatched: impl Iterator<Item = Batch>,
) -> StepStatistics {
    let mut step = StepStatistics::default();
    if !objective.is_of_units() {
        return step;
    }
    for unit in batches.flat_map(|batch| batch.units) {
        step.units += 1;
        step.supervised_targets += unit.supervised_targets() as u64;
    }
    if objective.reads_mismatched() {
        let sums = mismatched.map(|batch| {
            let readings = readings_of(decoder, &batch, head_chunk_rows);
            Objective::mismatched_log_ratios(&readings, &batch.units)
        });
        step.kl = (sums.sum::<f64>() / step.units as f64).max(0.0);
    }
    step
}

/// Loss and gradients of a step: means over its trained tokens, or over its units.
#[derive(Debug)]
pub struct Accumulated {
    step: u64,
    started: Instant,
    loss: f64,
    tokens: u64,
    trained_tokens: u64,
    figures: Figures,
    /// Gradients before clipping.
    pub gradients: Gradients,
}

/// Runs the micro-batches of a step forward and backward. The optimizer must have its weights in
/// the decoder, see [`Optimizer::go_on`].
pub fn accumulate(
    decoder: &Decoder,
    batches: impl Iterator<Item = Batch>,
    config: &TrainConfig,
    at: At,
    observer: &mut impl Observer,
) -> Accumulated {
    let started = Instant::now();
    let (mut gradients, mut losses, mut tokens) =
        (Gradients::of(at.loss_scale), TreeSum::new(Loss::add), 0);
    let goal = Goal {
        objective: &config.objective,
        step: &at.statistics,
        teacher: at.teacher,
    };
    let stream = [config.seed, at.epoch];
    let mut batches = batches;
    if let Objective::Contrastive(loss) = &config.objective {
        let all: Vec<Batch> = batches.by_ref().collect();
        tokens = all.iter().map(Batch::tokens).sum();
        losses.push(Some(pooled_backward(
            decoder,
            &all,
            loss,
            config.step,
            stream,
            &mut gradients,
            observer,
        )));
    }
    for batch in batches {
        losses.push(Some(observed(
            decoder,
            &batch,
            goal,
            config.step,
            stream,
            &mut gradients,
            observer,
        )));
        tokens += batch.tokens();
    }
    let sum = losses.total().unwrap_or_default();
    // Once, by the weight of the whole step: micro-batches of any size give the same mean.
    let mean = 1.0 / sum.weight;
    let (loss, gradients) = (sum.sum * mean, gradients.scaled(mean));
    Accumulated {
        step: at.step,
        started,
        loss,
        tokens,
        trained_tokens: sum.trained_tokens,
        figures: sum.figures,
        gradients,
    }
}

/// Result of a step.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// Number of the step, from 1.
    pub step: u64,
    /// Mean loss before the update, nats: per trained token, or per unit.
    pub loss: f64,
    /// Figures of the objective beside the loss.
    pub figures: Figures,
    /// Global L2 norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Tokens that carried a loss.
    pub trained_tokens: u64,
    /// Wall-clock time of the step.
    pub seconds: f64,
    /// Whether the weights changed.
    pub update: Update,
}

/// Whether a step changed the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// The step changed the weights.
    Made,
    /// The weights are unchanged, because a loss, gradient or new weight was not finite.
    Skipped {
        /// The first block on the way back whose gradient was not finite, where that was checked.
        block: Option<usize>,
    },
}

impl Accumulated {
    /// Clips the gradients and updates every weight. It updates none if loss, gradients or new
    /// weights are not finite, or if `not_finite` names a block with such a gradient.
    pub fn update(
        self,
        decoder: &mut Decoder,
        optimizer: &mut Optimizer,
        config: &TrainConfig,
        not_finite: Option<usize>,
    ) -> StepOutcome {
        let Self {
            step,
            started,
            loss,
            tokens,
            trained_tokens,
            figures,
            gradients,
        } = self;
        let grad_norm = gradients.norm();
        let learning_rate = optimizer.learning_rate(config.schedule.lr_at(step - 1));
        let is_finite = not_finite.is_none() && loss.is_finite() && grad_norm.is_finite();
        let clipped = if config.max_grad_norm > 0.0 {
            gradients.clipped(grad_norm, config.max_grad_norm)
        } else {
            gradients
        };
        let is_made = is_finite && optimizer.update(decoder, clipped, learning_rate);
        let update = if is_made {
            Update::Made
        } else {
            Update::Skipped { block: not_finite }
        };
        let seconds = started.elapsed().as_secs_f64();
        StepOutcome {
            step,
            loss,
            figures,
            grad_norm,
            learning_rate,
            tokens,
            trained_tokens,
            seconds,
            update,
        }
    }
}

impl StepOutcome {
    /// Whether the weights are unchanged.
    pub fn is_skipped(&self) -> bool {
        self.update != Update::Made
    }

    /// Returns the step as it is reported; `epoch` is the passes over the data at its end, as a
    /// fraction.
    pub fn report(&self, decoder: &Decoder, epoch: f64) -> Step {
        Step {
            step: self.step,
            epoch,
            loss: self.loss,
            figures: self.figures.means(),
            learning_rate: self.learning_rate,
            grad_norm: self.grad_norm,
            tokens: self.tokens,
            trained_tokens: self.trained_tokens,
            tokens_per_second: self.tokens as f64 / self.seconds,
            peak_memory_bytes: peak_memory_bytes(),
            device_peak_memory_bytes: device::peak_memory_bytes(&decoder.device()),
            skipped: self.is_skipped(),
        }
    }
}
