//! Compares a model with another on rows of known tokens. This is how the merge of an adapter is
//! checked.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::micro_batch::hidden_of;
use crate::data::Batch;
use crate::model::Decoder;
use crate::objective::argmax;

/// The predictions of two models for a trained token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// -log p of the token, nats, in the first and in the second model.
    pub losses: [f32; 2],
    /// Σ p log(p / q) over the vocabulary, nats: p is of the first model.
    pub divergence: f64,
    /// Whether both models have the same likeliest token.
    pub agree: bool,
}

/// Compares the second model with the first on a batch's trained tokens, in the order of its
/// targets. At most `head_chunk_rows` rows of logits of each exist at a time.
pub fn compare(
    first: &Decoder,
    second: &Decoder,
    batch: &Batch,
    head_chunk_rows: usize,
) -> Vec<Compared> {
    if batch.targets.is_empty() {
        return Vec::new();
    }
    let hidden = [first, second].map(|decoder| hidden_of(decoder, batch)); // [labeled, width] each
    let (vocabulary, mut compared) = (
        first.spec.vocabulary,
        Vec::with_capacity(batch.targets.len()),
    );
    for (chunk, targets) in batch.targets.chunks(head_chunk_rows).enumerate() {
        let logits = |decoder: &Decoder, hidden: &Tensor<2>| {
            let rows = hidden
                .clone()
                .narrow(0, chunk * head_chunk_rows, targets.len());
            decoder
                .head
                .logits(rows)
                .into_data()
                .iter::<f32>()
                .collect::<Vec<f32>>()
        };
        let [one, other] = [logits(first, &hidden[0]), logits(second, &hidden[1])];
        let rows = one
            .par_chunks(vocabulary)
            .zip(other.par_chunks(vocabulary))
            .zip(targets);
        compared.par_extend(rows.map(|((one, other), target)| row(one, other, *target as usize)));
    }
    compared
}

fn row(one: &[f32], other: &[f32], target: usize) -> Compared {
    let [of_one, of_other] = [one, other].map(log_sum);
    let log = |logits: &[f32], sum: f64, index: usize| f64::from(logits[index]) - sum;
    let term = |index: usize| {
        let (p, q) = (log(one, of_one, index), log(other, of_other, index));
        p.exp() * (p - q)
    };
    let divergence = (0..one.len()).map(term).sum::<f64>();
    Compared {
        losses: [
            -log(one, of_one, target) as f32,
            -log(other, of_other, target) as f32,
        ],
        // What is no number is as far as can be.
        divergence: if divergence.is_nan() {
            f64::INFINITY
        } else {
            divergence.max(0.0)
        },
        agree: argmax(one) == argmax(other),
    }
}

/// Returns log Σ exp(z).
fn log_sum(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits
        .iter()
        .map(|logit| (f64::from(*logit) - most).exp())
        .sum::<f64>()
        .ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_closed_form() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4).
        let logits = |p: [f32; 3]| p.map(f32::ln);
        let compared = row(&logits([0.5, 0.25, 0.25]), &logits([0.25, 0.5, 0.25]), 0);
        assert!((compared.divergence - 0.25 * 2f64.ln()).abs() < 1e-7);
        assert!(
            !compared.agree
                && (compared.losses[0] - 2f32.ln()).abs() < 1e-6
                && (compared.losses[1] - 4f32.ln()).abs() < 1e-6
        );
        let same = row(&[3.0, 1.0, -2.0], &[4.0, 2.0, -1.0], 1);
        assert!(
            same.agree && same.divergence < 1e-12,
            "a constant is no difference: {same:?}"
        );
        for number in [f32::NAN, f32::INFINITY] {
            let divergence = row(&[3.0, 1.0], &[number, 1.0], 1).divergence;
            assert!(divergence.is_infinite() && divergence > 0.0, "{number}");
        }
    }
}
