//! The score of a query and a key, from their product to the softmax.

/// A score: z = s, or z = c tanh(s / c), with s = scale · q · k (arXiv:2408.00118).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The scale, usually 1 / sqrt(width of a head).
    pub scale: f32,
    /// The cap c, which no score exceeds.
    pub softcap: Option<f32>,
}

/// Replaces each s by c tanh(s / c).
#[inline(always)]
pub(super) fn cap(scores: &mut [f32], softcap: f32) {
    for score in scores {
        *score = softcap * tanh(*score / softcap);
    }
}

/// Returns tanh x within a few units in the last place, as a quotient of polynomials (Eigen,
/// `generic_fast_tanh_float`). NaN stays NaN.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    const ABOVE: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_1e-8,
        1.485_722_4e-5,
        6.372_619_3e-4,
        4.893_524_6e-3,
    ];
    const BELOW: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    let x = x.clamp(-7.905_311, 7.905_311);
    let square = x * x;
    let [above, below] =
        [&ABOVE[..], &BELOW[..]].map(|p| p.iter().fold(0.0, |sum, p| sum * square + p));
    x * above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_within_a_few_units_in_the_last_place() {
        let worst = (-200_000..200_000).map(|step| {
            let x = step as f32 * 5e-5 + 1e-6;
            let exact = f64::from(x).tanh();
            ((f64::from(tanh(x)) - exact) / exact).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 6e-7, "{worst:e}");
        assert!(tanh(f32::NAN).is_nan() && tanh(f32::INFINITY) <= 1.0 && tanh(0.0).abs() == 0.0);
    }
}
