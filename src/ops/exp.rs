//! e^x in a form that a compiler turns into vector instructions; the C library's takes one call per
//! number.

use super::simd::Arithmetic;

/// Returns e^x within two units in the last place; 0 below -87.3, and at most e^88. NaN stays NaN.
///
/// e^x = 2^n e^r with n = round(x / ln 2), and a polynomial for e^r, |r| <= ln 2 / 2 (Cephes,
/// `expf`: <https://www.netlib.org/cephes/>).
#[inline(always)]
pub(super) fn exp<A: Arithmetic>(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = A::multiply_add(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = A::multiply_add(-n, LN2[1], A::multiply_add(-n, LN2[0], clamped));
    let p = [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_65,
        0.5,
    ];
    let mut tail = 1.987_569_1e-4;
    for p in p {
        tail = A::multiply_add(tail, r, p);
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = (A::multiply_add(tail, r * r, r) + 1.0) * power;
    if x < -87.3 { 0.0 } else { value }
}

/// Returns σ(x) = 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid<A: Arithmetic>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Fused, Separate};
    use super::*;

    fn is_close<A: Arithmetic>() {
        let worst = (-870_000..880_000).map(|step| {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            ((f64::from(exp::<A>(x)) - exact) / exact).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.4e-7, "{worst}");
        assert!(exp::<A>(f32::NAN).is_nan() && exp::<A>(-1e9) == 0.0 && exp::<A>(1e9).is_finite());
        assert!((exp::<A>(0.0) - 1.0).abs() == 0.0);
    }

    #[test]
    fn it_is_within_two_units_in_the_last_place_however_it_is_rounded() {
        is_close::<Separate>();
        is_close::<Fused>();
    }
}
