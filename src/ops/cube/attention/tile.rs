//! Tiles in the memory of a cube: rows of features as f32, padded by one vector, so that the rows
//! that units read at once lie in different banks.

use cubecl::prelude::*;

use super::super::across;
use super::{KernelShape, LANES, Scoring};

/// Loads rows of a tensor times a factor, followed by zeros. `start` is the first row's place and
/// `step` the distance to the next, in vectors.
#[cube]
pub(super) fn load<F: Float, N: Size>(
    from: &[Vector<F, N>],
    to: &mut Shared<[Vector<f32, N>]>,
    start: usize,
    step: usize,
    rows: usize,
    factor: f32,
    #[comptime] form: KernelShape,
) {
    let mut at = UNIT_POS as usize;
    while at < comptime![form.tile * form.width] {
        let row = at / comptime![form.width];
        let vector = at % comptime![form.width];
        let mut numbers = Vector::<f32, N>::new(0.0f32);
        if row < rows {
            numbers = Vector::<f32, N>::cast_from(from[start + row * step + vector])
                * Vector::new(factor);
        }
        to[row * comptime![form.width + 1] + vector] = numbers;
        at += CUBE_DIM as usize;
    }
}

/// Returns the product of a row of one tile and a row of another.
#[cube]
pub(super) fn dot<N: Size>(
    left: &Shared<[Vector<f32, N>]>,
    of_left: usize,
    right: &Shared<[Vector<f32, N>]>,
    of_right: usize,
    #[comptime] form: KernelShape,
) -> f32 {
    let (left_start, right_start) = (
        of_left * comptime![form.width + 1],
        of_right * comptime![form.width + 1],
    );
    let mut sum = Vector::<f32, N>::new(0.0f32);
    for vector in 0..form.width {
        sum += left[left_start + vector] * right[right_start + vector];
    }
    across::<N>(sum)
}

/// Adds to `sums` a factor times the vectors of a row that belong to a unit.
#[cube]
pub(super) fn add<N: Size>(
    sums: &mut Array<Vector<f32, N>>,
    factor: f32,
    tile: &Shared<[Vector<f32, N>]>,
    row: usize,
    lane: usize,
    #[comptime] form: KernelShape,
) {
    #[unroll]
    for index in 0..form.own {
        let vector = lane + index * LANES;
        if vector < comptime![form.width] {
            sums[index] += Vector::new(factor) * tile[row * comptime![form.width + 1] + vector];
        }
    }
}

/// Stores a unit's vectors times a factor at their place in a tensor.
#[cube]
pub(super) fn store<F: Float, N: Size>(
    sums: &Array<Vector<f32, N>>,
    factor: f32,
    to: &mut [Vector<F, N>],
    start: usize,
    lane: usize,
    #[comptime] form: KernelShape,
) {
    #[unroll]
    for index in 0..form.own {
        let vector = lane + index * LANES;
        if vector < comptime![form.width] {
            to[start + vector] = Vector::cast_from(sums[index] * Vector::new(factor));
        }
    }
}

/// Returns zeros for a unit's vectors.
#[cube]
pub(super) fn zeros<N: Size>(#[comptime] form: KernelShape) -> Array<Vector<f32, N>> {
    let mut sums = Array::<Vector<f32, N>>::new(form.own);
    #[unroll]
    for index in 0..form.own {
        sums[index] = Vector::new(0.0f32);
    }
    sums
}

/// Returns z of a scaled product, and dz/ds.
#[cube]
pub(super) fn scored(product: f32, scoring: &Scoring, #[comptime] form: KernelShape) -> (f32, f32) {
    if comptime![form.capped] {
        let share = (product / scoring.softcap).tanh();
        (share * scoring.softcap, 1.0f32 - share * share)
    } else {
        (product, f32::new(1.0))
    }
}
