//! Reads `metrics.jsonl` for a report. It is lenient, because a run may still be going on, or may
//! have ended in the middle of a line.

use std::io::{self, BufRead};

use serde::Deserialize;

/// The largest value that an axis shows; values beyond it count as not finite.
const LARGEST: f64 = 1e300;

/// The metrics of a run's steps and evaluations.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Steps in the order of the file.
    pub steps: Vec<StepLine>,
    /// Evaluations in the order of the file.
    pub evaluations: Vec<EvaluationLine>,
    /// The number of lines that are neither, and were left out.
    pub unreadable: u64,
}

/// An optimizer step. A value that is missing or was not finite is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepLine {
    /// The step, from 1.
    pub step: u64,
    /// Passes over the data at the end of the step.
    pub epoch: Option<f64>,
    /// Nats per trained token, or per pair or row of preferences, before the update.
    pub loss: Option<f64>,
    /// Mean difference of the rewards of preferences.
    pub margin: Option<f64>,
    /// Share of pairs whose chosen completion has the higher reward.
    pub accuracy: Option<f64>,
    /// Mean divergence from a teacher, nats per trained token.
    pub divergence: Option<f64>,
    /// The learning rate of the update.
    pub learning_rate: Option<f64>,
    /// Global L2 norm before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens, without padding.
    pub tokens: u64,
    /// Tokens that carried a loss.
    pub trained_tokens: u64,
    /// Tokens a second.
    pub tokens_per_second: Option<f64>,
    /// The highest resident memory so far.
    pub peak_memory_bytes: Option<u64>,
    /// The most GPU memory held so far.
    pub device_peak_memory_bytes: Option<u64>,
    /// Whether the step changed nothing.
    pub skipped: bool,
}

/// An evaluation. A value that is missing or was not finite is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvaluationLine {
    /// Steps taken before; 0 is the base alone.
    pub step: u64,
    /// Nats per trained token, or per pair or row of preferences.
    pub loss: Option<f64>,
    /// Mean difference of the rewards of preferences.
    pub margin: Option<f64>,
    /// Share of pairs whose chosen completion has the higher reward.
    pub accuracy: Option<f64>,
    /// Mean divergence from a teacher, nats per trained token.
    pub divergence: Option<f64>,
    /// Share of what belongs to an anchor among the ten nearest texts.
    pub recall: Option<f64>,
    /// The loss of tokens that do not end a turn or a document.
    pub content: Option<f64>,
    /// The loss of tokens that do.
    pub end_of_turn: Option<f64>,
    /// Whether the loss is of labels rather than of tokens.
    pub is_of_unit: bool,
}

/// A line of either kind.
#[derive(Debug, Deserialize)]
struct Line {
    step: u64,
    epoch: Option<f64>,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    /// Only on lines of steps.
    tokens: Option<u64>,
    trained_tokens: Option<u64>,
    tokens_per_second: Option<f64>,
    peak_memory_bytes: Option<u64>,
    device_peak_memory_bytes: Option<u64>,
    skipped: Option<bool>,
    eval_loss: Option<f64>,
    eval_loss_content: Option<f64>,
    #[serde(rename = "rewards/margins", alias = "margin")]
    margin: Option<f64>,
    #[serde(rename = "rewards/accuracies", alias = "accuracy")]
    accuracy: Option<f64>,
    divergence: Option<f64>,
    eval_divergence: Option<f64>,
    #[serde(rename = "eval_rewards/margins", alias = "eval_margin")]
    eval_margin: Option<f64>,
    #[serde(rename = "eval_rewards/accuracies", alias = "eval_accuracy")]
    eval_accuracy: Option<f64>,
    #[serde(rename = "eval_recall@10")]
    eval_recall: Option<f64>,
    eval_loss_end_of_turn: Option<f64>,
    eval_f1: Option<f64>,
    eval_mse: Option<f64>,
}

impl StepLine {
    /// Returns the peak of the memory that was planned: the GPU's if it computes there, else the
    /// process's.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.device_peak_memory_bytes.or(self.peak_memory_bytes)
    }
}

impl Metrics {
    /// Reads all lines.
    ///
    /// # Errors
    /// The reader fails. Its content is never an error.
    pub fn read(reader: impl BufRead) -> io::Result<Self> {
        let mut metrics = Self::default();
        for line in reader.split(b'\n') {
            metrics.take(&line?);
        }
        Ok(metrics)
    }

    /// Whether the steps are of preferences.
    pub fn is_of_preferences(&self) -> bool {
        self.steps.iter().any(|step| step.margin.is_some())
    }

    /// Whether the steps are of a distillation.
    pub fn is_of_distillation(&self) -> bool {
        self.steps.iter().any(|step| step.divergence.is_some())
    }

    /// Whether the evaluations are of vectors of texts.
    pub fn is_of_texts(&self) -> bool {
        self.evaluations
            .iter()
            .any(|evaluation| evaluation.recall.is_some())
    }

    /// Whether steps or evaluations count what was right.
    pub fn has_accuracy(&self) -> bool {
        let evaluations = self.evaluations.iter();
        self.steps.iter().any(|step| step.accuracy.is_some())
            || evaluations
                .map(|evaluation| evaluation.accuracy)
                .any(|accuracy| accuracy.is_some())
    }

    /// Whether losses are of pairs, rows or scores rather than of tokens.
    pub fn is_of_units(&self) -> bool {
        let lacks_parts =
            |evaluation: &EvaluationLine| evaluation.loss.is_some() && evaluation.is_of_unit;
        self.is_of_preferences()
            || self.has_accuracy()
            || self.is_of_texts()
            || self.evaluations.iter().any(lacks_parts)
    }

    /// Returns the validation loss before the first step.
    pub fn first_loss(&self) -> Option<f64> {
        self.evaluations
            .iter()
            .find(|evaluation| evaluation.step == 0)?
            .loss
    }

    /// Returns the step with the lowest validation loss, and that loss. Of equal ones the earlier
    /// counts, as in training.
    pub fn best(&self) -> Option<(u64, f64)> {
        let trained = self
            .evaluations
            .iter()
            .filter(|evaluation| evaluation.step > 0);
        let known = trained.filter_map(|evaluation| Some((evaluation.step, evaluation.loss?)));
        known.min_by(|left, right| left.1.total_cmp(&right.1))
    }

    fn take(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            self.unreadable += 1;
            return;
        };
        match line.tokens {
            Some(tokens) => self.steps.push(line.into_step(tokens)),
            None => self.evaluations.push(line.into_evaluation()),
        }
    }
}

impl Line {
    fn into_step(self, tokens: u64) -> StepLine {
        StepLine {
            step: self.step,
            epoch: usable(self.epoch),
            loss: usable(self.loss),
            margin: usable(self.margin),
            accuracy: usable(self.accuracy),
            divergence: usable(self.divergence),
            learning_rate: usable(self.learning_rate),
            grad_norm: usable(self.grad_norm),
            tokens,
            trained_tokens: self.trained_tokens.unwrap_or(0),
            tokens_per_second: usable(self.tokens_per_second),
            peak_memory_bytes: self.peak_memory_bytes,
            device_peak_memory_bytes: self.device_peak_memory_bytes,
            skipped: self.skipped.unwrap_or(false),
        }
    }

    fn into_evaluation(self) -> EvaluationLine {
        EvaluationLine {
            step: self.step,
            loss: usable(self.eval_loss),
            margin: usable(self.eval_margin),
            accuracy: usable(self.eval_accuracy),
            divergence: usable(self.eval_divergence),
            recall: usable(self.eval_recall),
            content: usable(self.eval_loss_content),
            end_of_turn: usable(self.eval_loss_end_of_turn),
            is_of_unit: self.eval_f1.is_some() || self.eval_mse.is_some(),
        }
    }
}

fn usable(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.abs() <= LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Metrics {
        Metrics::read(text).expect("memory can be read")
    }

    #[test]
    fn a_file_of_any_content_is_read() {
        let metrics = read(
            b"{\"step\":0,\"eval_loss\":6.5}\n\n\
            {\"step\":1,\"loss\":null,\"tokens\":9,\"skipped\":true}\n\xff\n[]\n\
            {\"step\":1,\"eval_loss\":6.0,\"more\":[1]}\n{\"step\":2,\"eval_loss\":null}\n\
            {\"step\":3,\"eval_loss\":6.0}\n{\"step\":4,\"lo",
        );
        assert_eq!(
            (
                metrics.steps.len(),
                metrics.evaluations.len(),
                metrics.unreadable
            ),
            (1, 4, 3)
        );
        assert_eq!(
            (
                metrics.steps[0].loss,
                metrics.steps[0].tokens,
                metrics.steps[0].skipped
            ),
            (None, 9, true)
        );
        assert_eq!(
            (metrics.first_loss(), metrics.best()),
            (Some(6.5), Some((1, 6.0)))
        );
    }

    #[test]
    fn the_base_alone_is_never_the_best() {
        assert_eq!(read(b"{\"step\":0,\"eval_loss\":1.0}\n").best(), None);
        assert_eq!(read(b"").first_loss(), None);
    }

    #[test]
    fn values_that_no_axis_takes_are_gaps() {
        let metrics = read(
            b"{\"step\":1,\"loss\":1.5e308,\"tokens\":1}\n\
            {\"step\":2,\"loss\":1e999,\"tokens\":1}\n",
        );
        assert_eq!(
            (
                metrics.steps.len(),
                metrics.steps[0].loss,
                metrics.unreadable
            ),
            (1, None, 1)
        );
    }
}
