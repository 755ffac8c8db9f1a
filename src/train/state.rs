//! The state of a run that the next step depends on, in addition to the adapter and the optimizer's
//! moments.

use serde::{Deserialize, Serialize};

use super::loss_scale::LossScale;
use super::optimizer::{Average, Optimizer};
use super::sampler::StepRows;
use crate::report::{Evaluation, Step};

/// Version of the format of `state.json`.
const VERSION: u32 = 2;

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of the format in which this is written.
    pub(super) version: u32,
    /// Optimizer steps taken, skipped ones included.
    pub step: u64,
    /// The cursor: completed passes over the data.
    pub epoch: u64,
    /// The cursor: completed rows of this epoch.
    pub place: u64,
    /// Number of updates that the optimizer made.
    pub updates: u64,
    /// Number of steps in a row, up to the last, that were skipped.
    pub skipped_in_a_row: u64,
    /// Tokens seen, without padding.
    pub tokens: u64,
    /// Loss of the last step; none if it was not finite.
    pub loss: Option<f64>,
    /// Whether the current adapter still has to be scored.
    pub evaluation_due: bool,
    /// Validation loss before the first step.
    pub eval_loss_first: Option<f64>,
    /// Lowest validation loss after a step.
    pub eval_loss_best: Option<f64>,
    /// The step whose adapter the run keeps: the best by validation loss, or without validation the
    /// last one saved.
    pub best_step: Option<u64>,
    /// Evaluations since the best step.
    pub evaluations_without_improvement: u64,
    /// Length of metrics.jsonl, bytes.
    pub metrics_bytes: u64,
    /// Length of samples.jsonl, bytes; absent in states written before that file existed.
    #[serde(default)]
    pub samples_bytes: u64,
    /// The factor of gradients while they are computed; `None` where they are not scaled.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// The state of a schedule-free optimizer's average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<Average>,
    /// Time spent on training, seconds.
    pub seconds: f64,
}

impl State {
    /// Returns the state before the first step: the base is scored first.
    pub fn start() -> Self {
        Self {
            version: VERSION,
            step: 0,
            epoch: 0,
            place: 0,
            updates: 0,
            skipped_in_a_row: 0,
            tokens: 0,
            loss: None,
            evaluation_due: true,
            eval_loss_first: None,
            eval_loss_best: None,
            best_step: None,
            evaluations_without_improvement: 0,
            metrics_bytes: 0,
            samples_bytes: 0,
            loss_scale: None,
            average: None,
            seconds: 0.0,
        }
    }

    /// Reads `state.json`.
    ///
    /// # Errors
    /// The text is not valid, or of another version; the message says which.
    pub fn parse(text: &str) -> Result<Self, String> {
        let state: Self = serde_json::from_str(text)
            .map_err(|error| format!("its state.json is not valid: {error}"))?;
        if state.version == VERSION {
            Ok(state)
        } else {
            Err(format!(
                "its state.json has version {}, expected {VERSION}",
                state.version
            ))
        }
    }

    /// Returns the state after a step over these rows.
    #[must_use]
    pub(super) fn after(self, taken: &Step, optimizer: &Optimizer, rows: &StepRows) -> Self {
        Self {
            step: taken.step,
            epoch: rows.epoch,
            place: rows.places.end as u64,
            updates: optimizer.updates(),
            average: optimizer.average(),
            skipped_in_a_row: if taken.skipped {
                self.skipped_in_a_row + 1
            } else {
                0
            },
            tokens: self.tokens + taken.tokens,
            loss: Some(taken.loss).filter(|loss| loss.is_finite()),
            ..self
        }
    }

    /// Records an evaluation; returns whether the current adapter is the one to keep.
    pub(super) fn judge(&mut self, evaluation: Option<&Evaluation>) -> bool {
        self.evaluation_due = false;
        if self.step == 0 {
            self.eval_loss_first = evaluation.map(|evaluation| evaluation.eval_loss);
            return false;
        }
        let loss = evaluation.map(|evaluation| evaluation.eval_loss);
        let better = loss.is_none_or(|loss| {
            loss.is_finite() && self.eval_loss_best.is_none_or(|best| loss < best)
        });
        if better && self.updates > 0 {
            (self.eval_loss_best, self.best_step) = (loss, Some(self.step));
            self.evaluations_without_improvement = 0;
        } else {
            self.evaluations_without_improvement += 1;
        }
        better && self.updates > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_to_the_bit() {
        let state = State {
            eval_loss_best: Some(0.1 + 0.2),
            loss: Some(1.0 / 3.0),
            seconds: 5e-324,
            step: u64::MAX,
            ..State::start()
        };
        let state = State {
            loss_scale: LossScale::of(burn::tensor::DType::F16, None),
            ..state
        };
        let text = serde_json::to_string(&state).expect("printed");
        assert_eq!(State::parse(&text), Ok(state));
        let other = text.replace("\"version\":2", "\"version\":3");
        assert_eq!(
            State::parse(&other),
            Err("its state.json has version 3, expected 2".to_owned())
        );
        assert!(State::parse(&text.replace("\"place\"", "\"spot\"")).is_err());
        let before_samples = text.replace("\"samples_bytes\":0,", "");
        assert!(before_samples.len() < text.len() && State::parse(&before_samples).is_ok());
    }
}
