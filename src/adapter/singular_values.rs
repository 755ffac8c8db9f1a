//! Singular values of what an adapter adds to a weight. They follow from two matrices of r x r, so
//! that s B A is never formed.

/// Returns the singular values of s B A in descending order.
///
/// With G = A Aᵀ and H = Bᵀ B they are s times the roots of the eigenvalues of G^½ H G^½, which has
/// no more than r of them.
///
/// # Shapes
/// `a` [r, in], `b` [out, r], both row by row.
pub fn singular_values(a: &[f32], b: &[f32], rank: usize, scale: f64) -> Vec<f64> {
    let inputs = a.len() / rank.max(1);
    let of_a = gram(rank, |row, column| {
        (0..inputs)
            .map(|k| f64::from(a[row * inputs + k]) * f64::from(a[column * inputs + k]))
            .sum()
    });
    let of_b = gram(rank, |row, column| {
        b.chunks_exact(rank)
            .map(|of| f64::from(of[row]) * f64::from(of[column]))
            .sum()
    });
    let (values, vectors) = eigen(of_a, rank);
    // G^½ = V diag(√λ) Vᵀ; its rotation by V changes no eigenvalue, so that V diag(√λ) is enough.
    let half: Vec<f64> = (0..rank * rank)
        .map(|at| vectors[at] * root(values[at % rank]))
        .collect();
    let inner = gram(rank, |row, column| {
        let through = |k: usize| {
            (0..rank)
                .map(|j| of_b[k * rank + j] * half[j * rank + column])
                .sum::<f64>()
        };
        (0..rank).map(|k| half[k * rank + row] * through(k)).sum()
    });
    let mut singular: Vec<f64> = eigen(inner, rank)
        .0
        .into_iter()
        .map(|value| scale.abs() * root(value))
        .collect();
    singular.sort_by(|left, right| right.total_cmp(left));
    singular
}

/// Returns the square root of a number that is below zero only by rounding; NaN stays NaN.
fn root(value: f64) -> f64 {
    if value < 0.0 { 0.0 } else { value.sqrt() }
}

/// Returns the Frobenius norm: the root of the sum of squares.
pub fn norm(singular: &[f64]) -> f64 {
    singular
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
}

/// Returns the effective rank, exp(-Σ p ln p) with p the shares of singular values in their sum:
/// how many directions count, from 1 to r (Roy and Vetterli 2007, "The effective rank", EUSIPCO). 0
/// where nothing is added.
pub fn effective_rank(singular: &[f64]) -> f64 {
    let sum: f64 = singular.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let entropy: f64 = singular
        .iter()
        .map(|value| value / sum)
        .filter(|share| *share > 0.0)
        .map(|share| -share * share.ln())
        .sum();
    entropy.exp()
}

fn gram(rank: usize, of: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..rank * rank)
        .map(|at| of(at / rank, at % rank))
        .collect()
}

/// The most sweeps of [`eigen`]; five are enough for matrices of this size.
const SWEEPS: usize = 30;

/// Returns eigenvalues and eigenvectors, one per column, of a symmetric matrix, by Jacobi's
/// rotations (Golub and Van Loan, Matrix Computations, 8.5).
pub(super) fn eigen(mut matrix: Vec<f64>, size: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = gram(size, |row, column| f64::from(u8::from(row == column)));
    let total: f64 = matrix.iter().map(|number| number * number).sum();
    for _ in 0..SWEEPS {
        let beside = |matrix: &[f64]| -> f64 {
            (0..size * size)
                .filter(|at| at / size != at % size)
                .map(|at| matrix[at].powi(2))
                .sum()
        };
        // A matrix that is not finite never gets there.
        if beside(&matrix) <= 1e-28 * total {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, &mut vectors, size, [p, q]);
            }
        }
    }
    (
        (0..size)
            .map(|index| matrix[index * size + index])
            .collect(),
        vectors,
    )
}

/// Zeroes the numbers at (p, q) and (q, p).
fn rotate(matrix: &mut [f64], vectors: &mut [f64], size: usize, [p, q]: [usize; 2]) {
    let off = matrix[p * size + q];
    if off == 0.0 {
        return;
    }
    let tau = (matrix[q * size + q] - matrix[p * size + p]) / (2.0 * off);
    let tangent = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
    let tangent = if tau == 0.0 { 1.0 } else { tangent };
    let [along, across] = [1.0, tangent].map(|side| side / (1.0 + tangent * tangent).sqrt());
    for k in 0..size {
        let (of_p, of_q) = (matrix[k * size + p], matrix[k * size + q]);
        (matrix[k * size + p], matrix[k * size + q]) =
            (along * of_p - across * of_q, across * of_p + along * of_q);
    }
    for k in 0..size {
        let (of_p, of_q) = (matrix[p * size + k], matrix[q * size + k]);
        (matrix[p * size + k], matrix[q * size + k]) =
            (along * of_p - across * of_q, across * of_p + along * of_q);
        let (of_p, of_q) = (vectors[k * size + p], vectors[k * size + q]);
        (vectors[k * size + p], vectors[k * size + q]) =
            (along * of_p - across * of_q, across * of_p + along * of_q);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() <= 1e-9 * right.abs().max(1.0)
    }

    #[test]
    fn orthogonal_directions_have_their_lengths() {
        // s B A = 2 (3 e1 e1ᵀ + 4 e2 e3ᵀ).
        let a = [1.0, 0.0, 0.0, 0.0, 0.0, 4.0];
        let b = [3.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        let singular = singular_values(&a, &b, 2, 2.0);
        assert!(
            close(singular[0], 8.0) && close(singular[1], 6.0),
            "{singular:?}"
        );
        assert!(close(norm(&singular), 10.0));
        let shares = [8.0 / 14.0_f64, 6.0 / 14.0];
        assert!(close(
            effective_rank(&singular),
            shares
                .map(|share| -share * share.ln())
                .iter()
                .sum::<f64>()
                .exp()
        ));
    }

    #[test]
    fn one_direction_is_of_rank_one_and_none_of_rank_zero() {
        let a = [1.0, 2.0, 2.0, 2.0, 4.0, 4.0];
        let singular = singular_values(&a, &[1.0, 0.0, 0.0, 0.0], 2, 1.0);
        assert!(
            close(singular[0], 3.0) && singular[1] < 1e-7,
            "{singular:?}"
        );
        assert!((effective_rank(&singular) - 1.0).abs() < 1e-5);
        assert_eq!(
            effective_rank(&singular_values(&a, &[0.0; 4], 2, 1.0)).to_bits(),
            0.0_f64.to_bits()
        );
    }

    #[test]
    fn any_adapter_has_the_norm_of_its_product() {
        let (rank, inputs, outputs, scale) = (5, 9, 7, 0.75);
        let draw = |count: usize, step: f32| {
            (0..count)
                .map(|at| (at as f32 * step).sin())
                .collect::<Vec<f32>>()
        };
        let (a, b) = (draw(rank * inputs, 1.3), draw(outputs * rank, 2.1));
        let product = |row: usize, column: usize| -> f64 {
            (0..rank)
                .map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * inputs + column]))
                .sum()
        };
        let squares: f64 = (0..outputs * inputs)
            .map(|at| (scale * product(at / inputs, at % inputs)).powi(2))
            .sum();
        let singular = singular_values(&a, &b, rank, scale);
        assert!(
            close(norm(&singular), squares.sqrt()),
            "{} and {}",
            norm(&singular),
            squares.sqrt()
        );
        assert!(singular.is_sorted_by(|left, right| left >= right) && singular.len() == rank);
        assert!(!norm(&singular_values(&[f32::NAN; 45], &b, rank, scale)).is_finite());
    }
}
