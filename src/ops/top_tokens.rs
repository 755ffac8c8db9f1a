//! The most likely tokens of rows of logits.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use rayon::prelude::*;

use crate::terms::TopTokens;

/// Returns the `each` most likely tokens of every row, best first and of equal ones the lower id
/// first, among the first `vocabulary` ids, with their log-probabilities over these ids at a
/// temperature.
///
/// # Shapes
/// `logits` [rows, vocabulary or more].
pub fn top_tokens(
    logits: Tensor<2>,
    vocabulary: usize,
    each: usize,
    temperature: f64,
) -> TopTokens {
    let [rows, all] = logits.dims();
    let both = vocabulary.min(all);
    let logits = logits.slice([0..rows, 0..both]).div_scalar(temperature);
    let log_p: Vec<f32> = log_softmax(logits, 1).into_data().iter::<f32>().collect();
    let of_row = |row: &[f32]| {
        let best = |one: &u32, other: &u32| {
            let [of_one, of_other] = [one, other].map(|id| row[*id as usize]);
            of_other.total_cmp(&of_one).then(one.cmp(other))
        };
        let mut ids: Vec<u32> = (0..).take(row.len()).collect();
        if each < ids.len() {
            ids.select_nth_unstable_by(each, best);
            ids.truncate(each);
        }
        ids.sort_unstable_by(best);
        let log_p = ids.iter().map(|id| row[*id as usize]).collect();
        (ids, log_p)
    };
    let found: Vec<(Vec<u32>, Vec<f32>)> = log_p.par_chunks(both).map(of_row).collect();
    let (ids, log_p): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    TopTokens {
        each: each.min(both),
        ids: ids.concat(),
        log_p: log_p.concat(),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn the_best_come_first_with_their_share_of_the_known_ids() {
        let logits = vec![0.0_f32, 2.0, 2.0, 1.0, 9.0, -1.0, 0.5, -3.0, 4.0, 9.0];
        let logits = Tensor::from_data(TensorData::new(logits, [2, 5]), &Device::flex());
        // The fifth id is padding.
        let top = top_tokens(logits, 4, 3, 2.0);
        assert_eq!((top.each, top.ids), (3, vec![1, 2, 3, 3, 1, 0]));
        let sum = |row: [f64; 4]| -> f64 { row.iter().map(|z| (z / 2.0).exp()).sum() };
        let exact = [2.0, 2.0, 1.0].map(|z| z / 2.0 - sum([0.0, 2.0, 2.0, 1.0]).ln());
        for (ours, exact) in top.log_p.iter().zip(exact) {
            assert!(
                (f64::from(*ours) - exact).abs() < 1e-6,
                "{ours}, not {exact}"
            );
        }
    }
}
