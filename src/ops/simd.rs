//! Loops compiled for several instruction sets and chosen at run time: the release build itself
//! targets plain x86-64.
//!
//! A loop is written once, over plain slices and without intrinsics; the compiler vectorises each
//! copy with the registers that it may use. On aarch64 NEON is part of every build, so there the
//! portable copy is the fast one.
#![allow(
    unsafe_code,
    reason = "a function compiled for more than the build's target may run only \
        where the processor has it"
)]

/// An instruction set for which a loop is compiled; the best one is last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// The build's own target: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 and fused multiply-add: 8 floats per register.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, VL, DQ, BW: 16 floats per register.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Returns the best level of this processor.
pub(super) fn level() -> Level {
    #[cfg(test)]
    if let Some(forced) = FORCED.get() {
        return forced;
    }
    best()
}

fn best() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
        if avx2
            && wide
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
        {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// A level's way to compute a · b + c, and how many at once.
pub(super) trait Arithmetic {
    /// Floats per register of the level, by which a loop that keeps its sums in registers divides
    /// its work.
    const REGISTER: usize;

    /// Returns a · b + c, rounded once where the level has an instruction for it and twice
    /// elsewhere.
    fn multiply_add(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding and one instruction, with registers of `REGISTER` floats.
pub(super) struct Fused<const REGISTER: usize = 8>;

impl<const REGISTER: usize> Arithmetic for Fused<REGISTER> {
    const REGISTER: usize = REGISTER;

    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Two roundings. Without the instruction, `mul_add` would call the C library for every number.
#[cfg_attr(
    target_arch = "aarch64",
    allow(dead_code, reason = "every aarch64 has the instruction")
)]
pub(super) struct Separate;

impl Arithmetic for Separate {
    const REGISTER: usize = 4;

    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// A loop with its arguments; [`vectorised`] writes one from a function.
pub(super) trait Kernel {
    /// The result of the loop.
    type Output;

    /// Runs the loop. It must be `#[inline(always)]`, and so must everything that it calls: only
    /// inlined code is compiled for the level.
    fn run<A: Arithmetic>(self) -> Self::Output;
}

/// Runs a loop at the best level.
#[inline]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        // SAFETY: `level` gives this level only where the processor has each of its features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(kernel) },
        #[cfg(not(target_arch = "aarch64"))]
        Level::Portable => kernel.run::<Separate>(),
        #[cfg(target_arch = "aarch64")]
        Level::Portable => kernel.run::<Fused<4>>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(
    enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c"
)]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Fused<16>>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Fused<8>>()
}

/// Defines functions that run at the best level.
///
/// The body is compiled once a level, with `A`, the level's [`Arithmetic`]; helpers that it calls
/// are `#[inline(always)]`, and it has loops, not closures: one that is not inlined is compiled for
/// the build's target, where each fused multiply-add is a call of the C library. It is for the
/// inside of a thread's piece, not around rayon.
///
/// ```ignore
/// vectorised! {
///     /// y + factor · x, in place of y.
///     fn add_scaled<'a, A>(y: &'a mut [f32], x: &'a [f32], factor: f32) {
///         for (y, x) in y.iter_mut().zip(x) {
///             *y = A::multiply_add(factor, *x, *y);
///         }
///     }
/// }
/// ```
macro_rules! vectorised {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$($lifetime:lifetime,)* $arithmetic:ident>(
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $output:ty)? $body:block
    )+) => {$(
        $(#[$attribute])*
        $visibility fn $name<$($lifetime),*>($($argument: $type),*) $(-> $output)? {
            struct Arguments<$($lifetime),*>($($type),*);

            impl<$($lifetime),*> $crate::ops::simd::Kernel for Arguments<$($lifetime),*> {
                type Output = $crate::ops::simd::vectorised!(@output $($output)?);

                #[inline(always)]
                fn run<A: $crate::ops::simd::Arithmetic>(self) -> Self::Output {
                    // Slices that are a function's own arguments are known not to overlap; fields
                    // are not.
                    #[inline(always)]
                    #[allow(
                        clippy::extra_unused_type_parameters,
                        reason = "not every loop multiplies and adds"
                    )]
                    fn body<$($lifetime,)* $arithmetic: $crate::ops::simd::Arithmetic>(
                        $($argument: $type),*
                    ) $(-> $output)? $body

                    let Self($($argument),*) = self;
                    body::<A>($($argument),*)
                }
            }

            $crate::ops::simd::run(Arguments($($argument),*))
        }
    )+};
    (@output $output:ty) => { $output };
    (@output) => { () };
}
pub(super) use vectorised;

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

/// Returns the result of `of` at every level that this processor has, the portable one first. It is
/// meant for work on the calling thread.
#[cfg(test)]
pub(super) fn at_every_level<T>(of: impl Fn() -> T) -> Vec<T> {
    let levels = [
        Level::Portable,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512,
    ];
    let present = levels.into_iter().filter(|level| *level <= best());
    let results = present.map(|level| {
        FORCED.set(Some(level));
        of()
    });
    let results = results.collect();
    FORCED.set(None);
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    vectorised! {
        fn add_scaled<'a, A>(y: &'a mut [f32], x: &'a [f32], factor: f32) {
            for (y, x) in y.iter_mut().zip(x) {
                *y = A::multiply_add(factor, *x, *y);
            }
        }

        fn largest<'a, A>(x: &'a [f32]) -> f32 {
            x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        }
    }

    #[test]
    fn every_level_gives_what_the_portable_twin_gives() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let x: Vec<f32> = (0..length)
                .map(|index| (index as f32 * 0.37).sin())
                .collect();
            let results = at_every_level(|| {
                let mut y = vec![0.25; length];
                add_scaled(&mut y, &x, 0.1);
                (largest(&x), y)
            });
            for (most, y) in &results {
                assert_eq!(most.to_bits(), results[0].0.to_bits());
                assert!(
                    y.iter()
                        .zip(&results[0].1)
                        .all(|(ours, twin)| (ours - twin).abs() <= 2.0 * f32::EPSILON * twin.abs())
                );
            }
        }
    }

    #[test]
    fn the_best_level_is_one_whose_features_are_reported() {
        let features = crate::device::cpu_features();
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => assert!(features.contains(&"avx512f")),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => assert!(
                features.contains(&"avx2")
                    && features.contains(&"fma")
                    && !features.contains(&"avx512f")
            ),
            Level::Portable => {}
        }
    }
}
