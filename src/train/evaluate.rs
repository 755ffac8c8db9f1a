//! The score of the adapter on rows that it is not trained on.

use super::run::Data;
use super::step::{ordered_sum, score};
use crate::model::Decoder;
use crate::report::{Evaluation, Event, Reporter};

/// Mean loss per trained token over all validation rows; `None` where there are none.
pub(super) fn evaluate(
    decoder: &Decoder,
    data: &Data,
    rows_per_batch: usize,
    chunk_rows: usize,
    step: u64,
    report: Reporter,
) -> Option<Evaluation> {
    let total: usize = data.validation.iter().map(|rows| rows.len()).sum();
    let (mut content, mut ends, mut done) = (Mean::default(), Mean::default(), 0);
    for rows in &data.validation {
        let places: Vec<u32> = (0..).take(rows.len()).collect();
        for places in places.chunks(rows_per_batch) {
            let batch = rows.batch(places);
            for (loss, target) in score(decoder, &batch, chunk_rows).into_iter().zip(&batch.targets) {
                let mean = if data.end_ids.contains(target) { &mut ends } else { &mut content };
                mean.losses.push(loss);
            }
            done += places.len();
            report(Event::Progress { what: "evaluating".to_owned(), done: done as u64, total: total as u64 });
        }
    }
    let all = Mean { losses: content.losses.iter().chain(&ends.losses).copied().collect() };
    let eval_loss = all.value()?;
    let evaluation = Evaluation {
        step,
        eval_loss,
        eval_perplexity: eval_loss.exp(),
        eval_loss_content: content.value(),
        eval_loss_end_of_turn: ends.value(),
    };
    report(Event::Evaluated(evaluation.clone()));
    Some(evaluation)
}

#[derive(Default)]
struct Mean {
    losses: Vec<f32>,
}

impl Mean {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn value(&self) -> Option<f64> {
        (!self.losses.is_empty()).then(|| ordered_sum(&self.losses) / self.losses.len() as f64)
    }
}
