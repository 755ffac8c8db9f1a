//! The norm's loops over rows, for one thread.

use crate::ops::lanes::sum_of_products;
use crate::ops::simd::{Arithmetic, vectorised};

/// Returns 1 / sqrt(mean(x²) + ε).
#[inline(always)]
fn inverse_rms<A: Arithmetic>(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum_of_products::<A>(x, x) / x.len() as f32 + epsilon).sqrt()
}

vectorised! {
    pub(super) fn forward<'a, A>(
        output: &'a mut [f32],
        x: &'a [f32],
        weight: &'a [f32],
        epsilon: f32,
    ) {
        for (output, x) in output
            .chunks_exact_mut(weight.len())
            .zip(x.chunks_exact(weight.len()))
        {
            let inverse = inverse_rms::<A>(x, epsilon);
            for ((output, x), w) in output.iter_mut().zip(x).zip(weight) {
                *output = x * inverse * w;
            }
        }
    }

    /// Replaces the gradient of y by that of x.
    pub(super) fn backward<'a, A>(
        gradient: &'a mut [f32],
        x: &'a [f32],
        weight: &'a [f32],
        epsilon: f32,
    ) {
        for (gradient, x) in gradient
            .chunks_exact_mut(weight.len())
            .zip(x.chunks_exact(weight.len()))
        {
            backward_row::<A>(gradient, x, weight, inverse_rms::<A>(x, epsilon));
        }
    }

    /// Does the same, and adds the gradient of the weight to `of_weight`.
    pub(super) fn backward_both<'a, A>(
        gradient: &'a mut [f32],
        of_weight: &'a mut [f32],
        x: &'a [f32],
        weight: &'a [f32],
        epsilon: f32,
    ) {
        for (gradient, x) in gradient
            .chunks_exact_mut(weight.len())
            .zip(x.chunks_exact(weight.len()))
        {
            let inverse = inverse_rms::<A>(x, epsilon);
            for ((sum, x), g) in of_weight.iter_mut().zip(x).zip(&*gradient) {
                *sum = A::multiply_add(x * inverse, *g, *sum);
            }
            backward_row::<A>(gradient, x, weight, inverse);
        }
    }
}

#[inline(always)]
fn backward_row<A: Arithmetic>(gradient: &mut [f32], x: &[f32], weight: &[f32], inverse: f32) {
    for (g, w) in gradient.iter_mut().zip(weight) {
        *g *= w;
    }
    let along = -(sum_of_products::<A>(x, gradient) / x.len() as f32 * inverse * inverse * inverse);
    for (g, x) in gradient.iter_mut().zip(x) {
        *g = A::multiply_add(*x, along, *g * inverse);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ops::simd::at_every_level;

    pub const EPSILON: f64 = 1e-5;

    pub fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|index| 2.0 * (step * index as f32 + 1.0).sin())
            .collect()
    }

    /// Returns the result, the gradient of x and that of the weight in f64.
    pub fn exact(x: &[f32], weight: &[f32], gradient: &[f32]) -> [Vec<f64>; 3] {
        let (width, mut all) = (weight.len(), [vec![], vec![], vec![0.0; weight.len()]]);
        let wide = |numbers: &[f32]| {
            numbers
                .iter()
                .map(|number| f64::from(*number))
                .collect::<Vec<_>>()
        };
        let w = wide(weight);
        for (x, g) in x.chunks(width).zip(gradient.chunks(width)) {
            let (x, g) = (wide(x), wide(g));
            let r = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + EPSILON)
                .sqrt()
                .recip();
            let along = (0..width).map(|at| x[at] * w[at] * g[at]).sum::<f64>() / width as f64;
            all[0].extend((0..width).map(|at| x[at] * r * w[at]));
            all[1].extend((0..width).map(|at| r * w[at] * g[at] - x[at] * r.powi(3) * along));
            (0..width).for_each(|at| all[2][at] += x[at] * r * g[at]);
        }
        all
    }

    pub fn assert_close(ours: &[f32], exact: &[f64], name: &str) {
        assert_eq!(ours.len(), exact.len());
        for (ours, exact) in ours.iter().zip(exact) {
            assert!(
                (f64::from(*ours) - exact).abs() <= 1e-5 * (1.0 + exact.abs()),
                "{name}: {ours}, expected {exact}"
            );
        }
    }

    #[test]
    fn every_level_is_the_closed_form() {
        for width in [1, 15, 16, 17, 1000] {
            let (x, weight, gradient) = (
                numbers(3 * width, 0.37),
                numbers(width, 0.73),
                numbers(3 * width, 1.1),
            );
            let exact = exact(&x, &weight, &gradient);
            let of_levels = at_every_level(|| {
                let (mut output, mut of_x, mut of_weight) =
                    (vec![0.0; 3 * width], gradient.clone(), vec![0.0; width]);
                forward(&mut output, &x, &weight, EPSILON as f32);
                backward(&mut of_x, &x, &weight, EPSILON as f32);
                let mut again = gradient.clone();
                backward_both(&mut again, &mut of_weight, &x, &weight, EPSILON as f32);
                assert_eq!(of_x, again);
                [output, of_x, of_weight]
            });
            for ours in &of_levels {
                for (which, name) in ["result", "of x", "of the weight"].into_iter().enumerate() {
                    assert_close(&ours[which], &exact[which], name);
                }
            }
        }
    }

    #[test]
    fn a_nan_stays_in_its_row() {
        let mut x = vec![1.0; 40];
        x[3] = f32::NAN;
        for (output, of_x) in at_every_level(|| {
            let (mut output, mut of_x) = (vec![0.0; 40], vec![1.0; 40]);
            forward(&mut output, &x, &[1.0; 20], EPSILON as f32);
            backward(&mut of_x, &x, &[1.0; 20], EPSILON as f32);
            (output, of_x)
        }) {
            assert!(
                output[..20]
                    .iter()
                    .chain(&of_x[..20])
                    .all(|number| number.is_nan())
            );
            assert!(
                output[20..]
                    .iter()
                    .chain(&of_x[20..])
                    .all(|number| number.is_finite())
            );
        }
    }
}
