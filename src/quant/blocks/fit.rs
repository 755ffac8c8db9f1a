//! Scales and codes of a few numbers by weighted least squares, in the order of operations of ggml:
//! each sum is added number by number in f32, and each product is rounded.

use super::small::extreme;

/// Magnitudes below which all numbers count as zeros.
pub(super) const EPSILON: f32 = 1e-15;

/// Returns the nearest integer of a number below 2^22, ties going to even; of others, the low bits
/// of their sum with 1.5 · 2²³.
pub(super) fn nearest(number: f32) -> i32 {
    ((number + 12_582_912.0).to_bits() & 0x007f_ffff).cast_signed() - 0x0040_0000
}

/// Codes from 0, with their scale and what is subtracted: x ≈ scale · code - minimum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine<const N: usize> {
    pub codes: [u8; N],
    pub scale: f32,
    pub minimum: f32,
}

/// How codes with a minimum are searched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    /// The largest code.
    pub most: u8,
    /// What is added to the largest code for the first try; each further one adds 0.1.
    pub from: f32,
    /// Tries after the first.
    pub steps: u8,
    /// Whether differences count by their magnitude rather than by their square.
    pub by_magnitude: bool,
}

impl Search {
    /// Finds scale and minimum of the least weighted difference.
    pub fn find<const N: usize>(self, x: &[f32; N], weights: &[f32; N]) -> Affine<N> {
        let (mut least, mut most) = (x[0], x[0]);
        let mut sum_w = weights[0];
        let mut sum_x = sum_w * x[0];
        for (x, w) in x.iter().zip(weights).skip(1) {
            least = if *x < least { *x } else { least };
            most = if *x > most { *x } else { most };
            sum_w += w;
            sum_x += w * x;
        }
        least = if least > 0.0 { 0.0 } else { least };
        if most <= least {
            return Affine {
                codes: [0; N],
                scale: 0.0,
                minimum: -least,
            };
        }
        let of_codes = f32::from(self.most);
        let factor = of_codes / (most - least);
        let mut best = Affine {
            codes: self.codes(x, factor, least),
            scale: 1.0 / factor,
            minimum: least,
        };
        let mut best_error = self.error(&best, x, weights);
        for step in 0..=self.steps {
            let room = most - best.minimum;
            let factor = (self.from + 0.1 * f32::from(step) + of_codes) / room;
            let codes = self.codes(x, factor, best.minimum);
            if let Some(tried) = solved(codes, x, weights, [sum_w, sum_x]) {
                let error = self.error(&tried, x, weights);
                if error < best_error {
                    (best, best_error) = (tried, error);
                }
            }
        }
        Affine {
            minimum: -best.minimum,
            ..best
        }
    }

    fn codes<const N: usize>(self, x: &[f32; N], factor: f32, least: f32) -> [u8; N] {
        x.map(|x| nearest(factor * (x - least)).clamp(0, i32::from(self.most)) as u8)
    }

    /// Returns the weighted difference, where the minimum is added.
    fn error<const N: usize>(self, tried: &Affine<N>, x: &[f32; N], weights: &[f32; N]) -> f32 {
        let mut sum = 0.0;
        for ((code, x), w) in tried.codes.iter().zip(x).zip(weights) {
            let difference = tried.scale * f32::from(*code) + tried.minimum - x;
            let difference = if self.by_magnitude {
                difference.abs()
            } else {
                difference * difference
            };
            sum += w * difference;
        }
        sum
    }
}

/// Returns scale and minimum, to be added, of least squares for these codes; a minimum is never
/// positive.
fn solved<const N: usize>(
    codes: [u8; N],
    x: &[f32; N],
    weights: &[f32; N],
    [sum_w, sum_x]: [f32; 2],
) -> Option<Affine<N>> {
    let (mut of_codes, mut squares_of_l, mut products) = (0.0, 0.0, 0.0);
    for ((code, x), w) in codes.iter().zip(x).zip(weights) {
        let l = f32::from(*code);
        of_codes += w * l;
        squares_of_l += w * l * l;
        products += w * l * x;
    }
    let determinant = sum_w * squares_of_l - of_codes * of_codes;
    let is_solvable = determinant > 0.0;
    let minimum = (squares_of_l * sum_x - of_codes * products) / determinant;
    let (scale, minimum) = if minimum > 0.0 {
        (products / squares_of_l, 0.0)
    } else {
        ((sum_w * products - sum_x * of_codes) / determinant, minimum)
    };
    is_solvable.then_some(Affine {
        codes,
        scale,
        minimum,
    })
}

/// Codes from 0 whose middle stands for 0: x ≈ scale · (code - half).
#[derive(Debug, Clone, Copy)]
pub(super) struct Centered {
    pub codes: [u8; 16],
    pub scale: f32,
}

impl Centered {
    const ZEROS: Self = Self {
        codes: [0; 16],
        scale: 0.0,
    };

    /// Finds the scale of least squares weighted by the squares of the numbers, of several
    /// roundings; `half` is half the number of codes.
    pub fn of_roundings(x: &[f32; 16], half: u8) -> Self {
        let [extreme, magnitude] = extreme(x);
        if magnitude < EPSILON {
            return Self::ZEROS;
        }
        let of_half = f32::from(half);
        let mut factor = -of_half / extreme;
        let [of_x, of_l] = sums(x, factor, half);
        let mut scale = if of_l == 0.0 { 0.0 } else { of_x / of_l };
        let mut best = scale * of_x;
        for step in (-9_i8..=9).filter(|step| *step != 0) {
            let tried = -(of_half + 0.1 * f32::from(step)) / extreme;
            let [of_x, of_l] = sums(x, tried, half);
            if of_l > 0.0 && of_x * of_x > best * of_l {
                scale = of_x / of_l;
                best = scale * of_x;
                factor = tried;
            }
        }
        Self {
            codes: x.map(|x| (clamped(factor * x, half) + i32::from(half)) as u8),
            scale,
        }
    }

    /// Finds the scale of least squares in the same weights, where each code is changed in turn as
    /// long as that helps.
    pub fn of_changes(x: &[f32; 16], half: u8) -> Self {
        let [extreme, magnitude] = extreme(x);
        if magnitude < EPSILON {
            return Self::ZEROS;
        }
        let factor = -f32::from(half) / extreme;
        let mut steps = x.map(|x| clamped(factor * x, half));
        let [mut of_x, mut of_l] = sums(x, factor, half);
        for _ in 0..5 {
            let mut has_changed = false;
            for (x, step) in x.iter().zip(&mut steps) {
                let (w, l) = (x * x, *step as f32);
                let without = of_x - w * x * l;
                if without > 0.0 {
                    let without_l = of_l - w * l * l;
                    let new = clamped(x * without_l / without, half);
                    if new != *step {
                        let l = new as f32;
                        let [new_x, new_l] = [without + w * x * l, without_l + w * l * l];
                        if new_l > 0.0 && new_x * new_x * of_l > of_x * of_x * new_l {
                            (*step, of_x, of_l) = (new, new_x, new_l);
                            has_changed = true;
                        }
                    }
                }
            }
            if !has_changed {
                break;
            }
        }
        Self {
            codes: steps.map(|step| (step + i32::from(half)) as u8),
            scale: if of_l > 0.0 { of_x / of_l } else { 0.0 },
        }
    }
}

/// Returns the nearest integer, of those that codes stand for.
pub(super) fn clamped(number: f32, half: u8) -> i32 {
    nearest(number).clamp(-i32::from(half), i32::from(half) - 1)
}

/// Sums of w x l and of w l l, with w = x x and the integers l that are nearest.
fn sums(x: &[f32; 16], factor: f32, half: u8) -> [f32; 2] {
    let add = |[of_x, of_l]: [f32; 2], x: &f32| {
        let (w, l) = (x * x, clamped(factor * x, half) as f32);
        [of_x + w * x * l, of_l + w * l * l]
    };
    x.iter().fold([0.0; 2], add)
}
