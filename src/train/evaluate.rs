//! The score of the adapter on rows that it is not trained on.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::Config;
use super::run::Data;
use super::step::score;
use crate::model::Decoder;
use crate::report::{Evaluation, Event, Reporter};

/// An evaluation was told to stop; it has no result.
#[derive(Debug)]
pub(super) struct Stopped;

/// Mean loss per trained token over all validation rows; `None` where there are none.
pub(super) fn evaluate(
    decoder: &Decoder,
    data: &Data,
    config: &Config,
    step: u64,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Option<Evaluation>, Stopped> {
    let total: usize = data.validation.iter().map(|rows| rows.len()).sum();
    let (mut content, mut ends, mut done) = (Mean::default(), Mean::default(), 0);
    for rows in &data.validation {
        let places: Vec<u32> = (0..).take(rows.len()).collect();
        for places in places.chunks(config.micro_batch_size) {
            if interrupt.load(Relaxed) {
                return Err(Stopped);
            }
            let batch = rows.batch(places);
            for (loss, target) in score(decoder, &batch, config.step.head_chunk_rows).into_iter().zip(&batch.targets) {
                let mean = if data.end_ids.contains(target) { &mut ends } else { &mut content };
                mean.add(loss);
            }
            done += places.len();
            report(Event::Progress { what: "evaluating".to_owned(), done: done as u64, total: total as u64 });
        }
    }
    Ok(content.and(ends).value().map(|eval_loss| Evaluation {
        step,
        eval_loss,
        eval_perplexity: eval_loss.exp(),
        eval_loss_content: content.value(),
        eval_loss_end_of_turn: ends.value(),
    }))
}

/// A mean whose losses are added in order and in f64.
#[derive(Clone, Copy, Default)]
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
        Self { sum: self.sum + other.sum, count: self.count + other.count }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}
