//! Scores the adapter on rows that it is not trained on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::TrainConfig;
use super::evaluate_texts::{Interrupted, evaluate_texts};
use super::micro_batch::{Goal, Loss, goal_readings, score};
use super::run::Data;
use super::step::statistics;
use crate::data::Batch;
use crate::model::Decoder;
use crate::objective::{ClassScores, Objective};
use crate::report::{Evaluation, Event, Reporter};

/// The error of an evaluation that was told to stop; it has no result.
#[derive(Debug)]
pub(super) struct Stopped;

/// Returns the mean loss per trained token over all validation rows; `None` where there are none.
pub(super) fn evaluate(
    decoder: &Decoder,
    data: &Data,
    config: &TrainConfig,
    step: u64,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Option<Evaluation>, Stopped> {
    let decoder = &decoder.settled();
    if let Objective::Contrastive(loss) = &config.objective {
        let rows = &data.validation;
        let evaluated = evaluate_texts(decoder, rows, loss, config, step, interrupt, report);
        return evaluated.map_err(|Interrupted| Stopped);
    }
    if config.objective.is_of_units() || config.objective.distill().is_some() {
        return evaluate_units(decoder, data, config, step, interrupt, report);
    }
    let total: usize = data.validation.iter().map(|rows| rows.len()).sum();
    let (mut sum, mut done) = (Score::default(), 0);
    for rows in &data.validation {
        for batch in rows.batches(config.micro_batch_size, config.packing) {
            if interrupt.load(Relaxed) {
                return Err(Stopped);
            }
            for (loss, target) in score(decoder, &batch, config.step.head_chunk_rows)
                .into_iter()
                .zip(&batch.targets)
            {
                sum.add(loss, data.end_ids.contains(target));
            }
            done += batch.rows.len();
            report(Event::Progress {
                what: "evaluating".to_owned(),
                done: done as u64,
                total: total as u64,
            });
        }
    }
    Ok(sum.loss().map(|eval_loss| Evaluation {
        step,
        eval_loss,
        eval_perplexity: Some(eval_loss.exp()),
        eval_loss_content: sum.content(),
        eval_loss_end_of_turn: sum.end_of_turn(),
        figures: BTreeMap::new(),
        eval_confusion: None,
    }))
}

/// Returns the mean loss over the units or tokens of all validation rows, and the figures of the
/// objective.
/// Numbers that the loss takes from a step are those of all validation rows.
fn evaluate_units(
    decoder: &Decoder,
    data: &Data,
    config: &TrainConfig,
    step: u64,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Option<Evaluation>, Stopped> {
    let total: usize = data.validation.iter().map(|rows| rows.len()).sum();
    let is_stopped = || interrupt.load(Relaxed);
    let mismatched = data.validation.iter().flat_map(|rows| {
        let places: Vec<u32> = (0..).take(rows.len()).collect();
        let batches = places.chunks(config.micro_batch_size);
        let batches: Vec<Vec<u32>> = batches.map(<[u32]>::to_vec).collect();
        batches
            .into_iter()
            .map(move |places| rows.mismatched(&places))
    });
    let mut of_all = statistics(
        decoder,
        &config.objective,
        config.step.head_chunk_rows,
        batches(data, config),
        mismatched.take_while(|_| !is_stopped()),
    );
    of_all.units = of_all.units.max(1);
    let goal = Goal {
        objective: &config.objective,
        step: &of_all,
        teacher: data.teacher,
    };
    let (mut sum, mut done) = (Loss::default(), 0);
    let mut classes = ClassScores::of(&config.objective);
    for batch in batches(data, config) {
        if is_stopped() {
            return Err(Stopped);
        }
        let readings = goal_readings(decoder, &batch, goal, config.step.head_chunk_rows);
        if let Some(classes) = &mut classes {
            classes.add(&readings, &batch.units);
        }
        let judged = goal.judge(&readings, &batch);
        done += batch.units.len();
        sum = sum
            + Loss {
                sum: judged.loss_sum,
                weight: judged.weight,
                trained_tokens: batch.trained_tokens(),
                figures: judged.figures,
            };
        report(Event::Progress {
            what: "evaluating".to_owned(),
            done: done as u64,
            total: total as u64,
        });
    }
    let mut figures = sum.figures.means();
    let of_classes = classes.iter().flat_map(ClassScores::figures);
    figures.extend(of_classes.map(|(name, value)| (name.to_owned(), value)));
    let figures = figures.into_iter();
    Ok((sum.weight > 0.0).then(|| Evaluation {
        step,
        eval_loss: sum.sum / sum.weight,
        eval_perplexity: None,
        eval_loss_content: None,
        eval_loss_end_of_turn: None,
        figures: figures
            .map(|(name, mean)| (format!("eval_{name}"), mean))
            .collect(),
        eval_confusion: classes.and_then(|classes| classes.table()),
    }))
}

/// Returns all validation rows in batches.
fn batches<'a>(data: &'a Data, config: &'a TrainConfig) -> impl Iterator<Item = Batch> + 'a {
    data.validation
        .iter()
        .flat_map(move |rows| rows.batches(config.micro_batch_size, config.packing))
}

/// Losses of trained tokens, with those that end a turn or a document kept apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Score {
    content: Mean,
    ends: Mean,
}

impl Score {
    /// Adds a token's loss, nats.
    pub fn add(&mut self, loss: f32, is_end: bool) {
        if is_end {
            self.ends.add(loss);
        } else {
            self.content.add(loss);
        }
    }

    /// Joins two scores.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            content: self.content.and(other.content),
            ends: self.ends.and(other.ends),
        }
    }

    /// Returns the mean loss per trained token; `None` where there was none.
    pub fn loss(&self) -> Option<f64> {
        self.content.and(self.ends).value()
    }

    /// Returns the mean over tokens that do not end a turn or a document.
    pub fn content(&self) -> Option<f64> {
        self.content.value()
    }

    /// Returns the mean over tokens that end a turn or a document.
    pub fn end_of_turn(&self) -> Option<f64> {
        self.ends.value()
    }

    /// Returns the number of tokens.
    pub fn trained_tokens(&self) -> u64 {
        self.content.and(self.ends).count
    }
}

/// A mean whose losses are added in order and in f64.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, loss: f32) {
        self.sum += f64::from(loss);
        self.count += 1;
    }

    fn and(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            count: self.count + other.count,
        }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}
