//! Scores an embedder on rows that it is not trained on: its loss in pools as large as those of
//! training, and how well its vectors find what belongs to an anchor among all texts of the rows.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::TrainConfig;
use super::micro_batch::Loss;
use super::pool::vectors_of;
use crate::data::Rows;
use crate::model::Decoder;
use crate::objective::{Contrastive, ranking};
use crate::report::{Evaluation, Event, Reporter};
use crate::terms::{Unit, UnitKind};

/// The error of an evaluation that was told to stop.
#[derive(Debug)]
pub(super) struct Interrupted;

/// Returns the mean loss over all validation rows, and the figures of the objective; `None` where
/// there are no rows.
pub(super) fn evaluate_texts(
    decoder: &Decoder,
    validation: &[Rows],
    loss: &Contrastive,
    config: &TrainConfig,
    step: u64,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Option<Evaluation>, Interrupted> {
    let total: usize = validation.iter().map(|rows| rows.len()).sum();
    let (mut vectors, mut units): (Vec<f32>, Vec<Unit>) = (Vec::new(), Vec::new());
    for rows in validation {
        for batch in rows.batches(config.micro_batch_size, config.packing) {
            if interrupt.load(Relaxed) {
                return Err(Interrupted);
            }
            vectors.extend(vectors_of(decoder, &batch));
            units.extend(batch.units);
            report(Event::Progress {
                what: "evaluating".to_owned(),
                done: units.len() as u64,
                total: total as u64,
            });
        }
    }
    let texts = |units: &[Unit]| -> usize {
        let of_unit = |unit: &Unit| match &unit.kind {
            UnitKind::Texts(texts) => texts.len(),
            _ => 0,
        };
        units.iter().map(of_unit).sum()
    };
    let width = vectors.len().checked_div(texts(&units)).unwrap_or(0);
    let (mut sum, mut rest) = (Loss::default(), &vectors[..]);
    let pool = config.micro_batch_size * config.gradient_accumulation_steps;
    for units in units.chunks(pool.max(1)) {
        let (own, others) = rest.split_at(texts(units) * width);
        rest = others;
        let judged = loss.judge(own, units);
        sum = sum
            + Loss {
                sum: judged.loss_sum,
                weight: judged.weight,
                trained_tokens: 0,
                figures: judged.figures,
            };
    }
    let figures = sum.figures.means().into_iter();
    let ranked = ranking(&vectors, &units).into_iter();
    let ranked = ranked.map(|(name, value)| (name.to_owned(), value));
    Ok((sum.weight > 0.0).then(|| Evaluation {
        step,
        eval_loss: sum.sum / sum.weight,
        eval_perplexity: None,
        eval_loss_content: None,
        eval_loss_end_of_turn: None,
        figures: figures
            .chain(ranked)
            .map(|(name, value)| (format!("eval_{name}"), value))
            .collect(),
        eval_confusion: None,
    }))
}
