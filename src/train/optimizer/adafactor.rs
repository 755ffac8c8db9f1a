//! Adafactor as in transformers: for a matrix, the mean squares of its rows and columns replace
//! those of its numbers. Shazeer and Stern 2018, arXiv:1804.04235.
//!
//! ```text
//! β = 1 - t^decay_rate
//! r ← β r + (1 - β) mean over a row of g²    c alike over columns
//! u = g / √(r / mean r) / √c    u ← η u / max(1, RMS u / clip_threshold)
//! w ← (1 - η λ) w - u
//! ```

use burn::tensor::Tensor;

use super::Adafactor;
use super::rules::{Rates, Updated, mean};

/// The ε that is added to squares.
const SQUARE_EPSILON: f64 = 1e-30;
/// The smallest root mean square of a weight that scales the learning rate.
const LEAST_SCALE: f64 = 1e-3;

impl Adafactor {
    /// Returns the learning rate of an update: the schedule's, or that which depends on the number
    /// of updates.
    pub(super) fn learning_rate(&self, scheduled: f64, update: u64) -> f64 {
        let update = update as f64;
        let most = if self.warmup_init {
            1e-6 * update
        } else {
            1e-2
        };
        if self.relative_step {
            most.min(1.0 / update.sqrt())
        } else {
            scheduled
        }
    }

    /// Returns rows [weights, n] of `shape` after an update. The states are r and c for a matrix,
    /// the mean of squares for a vector, then a momentum where there is one.
    pub(super) fn update(
        &self,
        weights: Tensor<2>,
        gradients: Tensor<2>,
        mut states: Vec<Tensor<2>>,
        shape: &[usize],
        rates: Rates,
    ) -> Updated {
        let momentum = self.beta1.and_then(|beta1| Some((beta1, states.pop()?)));
        let decay = 1.0 - (rates.update as f64).powf(self.decay_rate);
        let squares = gradients.clone().square().add_scalar(SQUARE_EPSILON);
        let (update, mut states) = if let [rows, columns] = shape {
            factored(gradients, squares, &states, [*rows, *columns], decay)
        } else {
            let second = mean(states.remove(0), decay, squares);
            (gradients / second.clone().sqrt(), vec![second])
        };
        // Of each weight one number, [weights, 1].
        let clip = root_mean_square(update.clone())
            .div_scalar(self.clip_threshold)
            .clamp_min(1.0);
        let scale = self
            .scale_parameter
            .then(|| root_mean_square(weights.clone()).clamp_min(LEAST_SCALE));
        let rate = scale
            .unwrap_or_else(|| clip.ones_like())
            .mul_scalar(rates.learning_rate);
        let mut update = update * (rate.clone() / clip);
        if let Some((beta1, momentum)) = momentum {
            update = mean(momentum, beta1, update);
            states.push(update.clone());
        }
        let decayed = weights.clone() - weights * rate.mul_scalar(rates.weight_decay);
        (decayed - update, states)
    }
}

/// Returns the update of matrices and their new means of rows and columns.
fn factored(
    gradients: Tensor<2>,
    squares: Tensor<2>,
    states: &[Tensor<2>],
    [rows, columns]: [usize; 2],
    decay: f64,
) -> (Tensor<2>, Vec<Tensor<2>>) {
    let count = gradients.dims()[0];
    let squares = squares.reshape([count, rows, columns]);
    let of_rows = mean(
        states[0].clone(),
        decay,
        squares.clone().mean_dim(2).reshape([count, rows]),
    );
    let of_columns = mean(
        states[1].clone(),
        decay,
        squares.mean_dim(1).reshape([count, columns]),
    );
    let share = of_rows.clone() / of_rows.clone().mean_dim(1); // [weights, rows]
    let by_rows =
        gradients.reshape([count, rows, columns]) / share.sqrt().reshape([count, rows, 1]);
    let update = by_rows / of_columns.clone().sqrt().reshape([count, 1, columns]);
    (
        update.reshape([count, rows * columns]),
        vec![of_rows, of_columns],
    )
}

/// Returns the root mean square of rows [weights, n], [weights, 1].
fn root_mean_square(rows: Tensor<2>) -> Tensor<2> {
    rows.square().mean_dim(1).sqrt()
}
