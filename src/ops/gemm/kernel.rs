//! The innermost loop of a product: a few rows of the left matrix times one packed panel of the
//! right one, with the sums in registers. It is written once over vectors of any width and compiled
//! for AVX-512, AVX2 and the build's own target.
#![allow(
    unsafe_code,
    reason = "vector registers are loaded and stored through pointers; the \
        caller says how far they reach"
)]
#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with target features is compiled for them"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

use crate::ops::simd::{Level, level};

/// Number of vectors in the widest panel.
pub(super) const VECTORS: usize = 3;

/// A few rows of the left matrix: row i has its k-th number at `start + i · row + k · step`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub start: *const f32,
    pub rows: usize,
    pub row: usize,
    pub step: usize,
}

/// The place of the sums: row i at `start + i · row`, with `columns` columns.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub start: *mut f32,
    pub row: usize,
    pub columns: usize,
    /// Whether sums are added to the numbers in that place.
    pub add: bool,
}

/// A vector register of floats.
trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Returns self · factor + sum.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;

    /// Loads the first lanes only; the others are 0.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, lanes: usize) -> Self {
        let mut values = [0.0; 16];
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), lanes);
            Self::load(values.as_ptr())
        }
    }

    /// Stores the first lanes only.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, lanes: usize) {
        let mut values = [0.0; 16];
        unsafe {
            self.store(values.as_mut_ptr());
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, lanes);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, factor, sum) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm512_add_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, lanes: usize) -> Self {
        unsafe { _mm512_maskz_loadu_ps(((1_u32 << lanes) - 1) as u16, from) }
    }
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, lanes: usize) {
        unsafe { _mm512_mask_storeu_ps(to, ((1_u32 << lanes) - 1) as u16, self) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m256 {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, factor, sum) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm256_add_ps(self, other) }
    }
}

/// The portable version: four floats, which every target has in one register.
impl Vector for [f32; 4] {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        let of = |lane: usize| {
            if cfg!(target_arch = "aarch64") {
                self[lane].mul_add(factor[lane], sum[lane])
            } else {
                self[lane] * factor[lane] + sum[lane]
            }
        };
        [of(0), of(1), of(2), of(3)]
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        [
            self[0] + other[0],
            self[1] + other[1],
            self[2] + other[2],
            self[3] + other[3],
        ]
    }
}

/// Returns the floats per vector of a level.
pub(super) fn lanes(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 16,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 8,
        Level::Portable => 4,
    }
}

/// Multiplies rows of `left` with a panel of `vectors` vectors per row and `depth` rows; the
/// panel's columns behind `out.columns` are not stored.
///
/// # Safety
/// `left` and `panel` must be readable, and `out` writable by nobody else, as far as the counts
/// say; the processor must have the level.
pub(super) unsafe fn stripe(depth: usize, left: Left, panel: *const f32, vectors: usize, out: Out) {
    unsafe {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512(depth, left, panel, vectors, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2(depth, left, panel, vectors, out),
            Level::Portable => rows_of::<[f32; 4], 4>(depth, left, panel, vectors, out),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(depth: usize, left: Left, panel: *const f32, vectors: usize, out: Out) {
    unsafe { rows_of::<__m512, 8>(depth, left, panel, vectors, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(depth: usize, left: Left, panel: *const f32, vectors: usize, out: Out) {
    unsafe { rows_of::<__m256, 4>(depth, left, panel, vectors, out) }
}

/// Computes `ROWS` rows at a time; with three vectors they take 24 of the 32 registers of AVX-512,
/// and 12 of the 16 of AVX2.
#[inline(always)]
unsafe fn rows_of<V: Vector, const ROWS: usize>(
    depth: usize,
    left: Left,
    panel: *const f32,
    vectors: usize,
    out: Out,
) {
    unsafe {
        for first in (0..left.rows).step_by(ROWS) {
            let rows = (left.rows - first).min(ROWS);
            let left = Left {
                start: left.start.add(first * left.row),
                rows,
                ..left
            };
            let out = Out {
                start: out.start.add(first * out.row),
                ..out
            };
            match vectors {
                1 => some_rows::<V, 1>(depth, left, panel, out),
                2 => some_rows::<V, 2>(depth, left, panel, out),
                _ => some_rows::<V, VECTORS>(depth, left, panel, out),
            }
        }
    }
}

#[inline(always)]
unsafe fn some_rows<V: Vector, const N: usize>(
    depth: usize,
    left: Left,
    panel: *const f32,
    out: Out,
) {
    unsafe {
        match left.rows {
            1 => sums::<V, 1, N>(depth, left, panel, out),
            2 => sums::<V, 2, N>(depth, left, panel, out),
            3 => sums::<V, 3, N>(depth, left, panel, out),
            4 => sums::<V, 4, N>(depth, left, panel, out),
            5 => sums::<V, 5, N>(depth, left, panel, out),
            6 => sums::<V, 6, N>(depth, left, panel, out),
            7 => sums::<V, 7, N>(depth, left, panel, out),
            _ => sums::<V, 8, N>(depth, left, panel, out),
        }
    }
}

#[inline(always)]
unsafe fn sums<V: Vector, const ROWS: usize, const N: usize>(
    depth: usize,
    left: Left,
    panel: *const f32,
    out: Out,
) {
    unsafe {
        let mut sums = [[V::splat(0.0); N]; ROWS];
        let (mut numbers, mut right) = (left.start, panel);
        for _ in 0..depth {
            let mut vectors = [V::splat(0.0); N];
            for (index, vector) in vectors.iter_mut().enumerate() {
                *vector = V::load(right.add(index * V::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let number = V::splat(*numbers.add(row * left.row));
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = number.multiply_add(vector, *sum);
                }
            }
            // Behind the last step it may lie outside of the matrix, where nothing is read.
            numbers = numbers.wrapping_add(left.step);
            right = right.add(N * V::LANES);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (index, sum) in sums.into_iter().enumerate() {
                let to = out.start.add(row * out.row + index * V::LANES);
                match out.columns.saturating_sub(index * V::LANES) {
                    0 => {}
                    lanes if lanes >= V::LANES => {
                        V::store(if out.add { V::load(to).add(sum) } else { sum }, to);
                    }
                    lanes => V::store_some(
                        if out.add {
                            V::load_some(to, lanes).add(sum)
                        } else {
                            sum
                        },
                        to,
                        lanes,
                    ),
                }
            }
        }
    }
}
