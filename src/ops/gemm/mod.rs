//! Sums of matrix products on the CPU, `C = Σ AᵢBᵢ`, in f32.
//!
//! It has what no crate of products offers: a right matrix that is stored in 16 bits and never widened as a whole, a low-rank product
//! added while the tile of C is in the cache, and sums whose order depends on nothing but the depth: not on the number of threads, not on
//! the rows beside. Blocks and packing are those of Goto and van de Geijn 2008, <https://doi.org/10.1145/1356052.1356053>.
#![allow(unsafe_code, reason = "tiles of one matrix are written by several threads, each its own columns")]

mod kernel;
mod pack;

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use self::kernel::{Left, Out, VECTORS, lanes, stripe};
use crate::ops::simd::level;

/// Rows of C and columns of C in a tile: a tile, its rows of A and its panels of B are in the second cache together.
const TILE: [usize; 2] = [256, 144];
/// Numbers of a sum that are added before they are added to C.
const DEPTH: usize = 384;
/// Rows that stay together when rows are shared out.
const ROWS: usize = 8;
/// Multiply-adds below which a thread more costs more than it brings.
const SMALL: usize = 1 << 19;

/// Numbers of a matrix, as they are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// A matrix that lies row behind row, or turned: column behind column. Its transpose is the same numbers, turned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<N> {
    pub numbers: N,
    pub rows: usize,
    pub columns: usize,
    /// Numbers from the start of one row (or column, where turned) to the next.
    pub stride: usize,
    pub turned: bool,
}

impl<N> Matrix<N> {
    /// The same of other numbers.
    pub fn map<M>(self, of: impl FnOnce(N) -> M) -> Matrix<M> {
        let Self { numbers, rows, columns, stride, turned } = self;
        Matrix { numbers: of(numbers), rows, columns, stride, turned }
    }

    /// Steps to the next row and to the next column.
    fn steps(&self) -> [usize; 2] {
        if self.turned { [1, self.stride] } else { [self.stride, 1] }
    }

    /// Numbers from the first to the last.
    fn reach(&self) -> usize {
        let (outer, inner) = if self.turned { (self.columns, self.rows) } else { (self.rows, self.columns) };
        if outer == 0 || inner == 0 { 0 } else { (outer - 1) * self.stride + inner }
    }
}

/// One product of a sum.
pub(super) type Product<'a> = (Matrix<&'a [f32]>, Matrix<Numbers<'a>>);

/// The sum of some products, a matrix of rows that lie one behind the other.
pub(super) fn sum_of_products(products: &[Product]) -> Vec<f32> {
    let (rows, columns) = (products[0].0.rows, products[0].1.columns);
    let mut sum = Vec::with_capacity(rows * columns);
    // SAFETY: the room is there.
    unsafe { compute(sum.as_mut_ptr(), [rows, columns], products) };
    // SAFETY: each of the numbers was written.
    unsafe { sum.set_len(rows * columns) };
    sum
}

/// A place that threads write to, each its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the tiles are disjoint.
unsafe impl Sync for Shared {}

/// # Safety
/// `to` has room for the shape.
unsafe fn compute(to: *mut f32, shape: [usize; 2], products: &[Product]) {
    let [rows, columns] = shape;
    for (left, right) in products {
        assert!(left.rows == rows && right.columns == columns && left.columns == right.rows, "shapes of a product fit");
        let stored = match right.numbers {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::Bf16(numbers) => numbers.len(),
        };
        assert!(left.reach() <= left.numbers.len() && right.reach() <= stored, "matrices have their numbers");
    }
    let depth: usize = products.iter().map(|(left, _)| left.columns).sum();
    if depth == 0 {
        // SAFETY: there is room for the shape.
        unsafe { to.write_bytes(0, rows * columns) };
    }
    let panel = VECTORS * lanes(level());
    let parts = grid(shape, depth, panel, rayon::current_num_threads());
    let to = Shared(to);
    let tile = |index: usize| {
        let to = &to;
        let rows = share(rows, parts[0], ROWS, index / parts[1]);
        let columns_of = share(columns, parts[1], panel, index % parts[1]);
        // SAFETY: tiles do not overlap, and lie within C; the matrices have their numbers.
        SCRATCH.with_borrow_mut(|scratch| unsafe { compute_tile(to.0, columns, products, rows, columns_of, scratch) });
    };
    match parts {
        [1, 1] => tile(0),
        [down, across] => (0..down * across).into_par_iter().with_max_len(1).for_each(tile),
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// How many tiles C is cut into, down and across.
fn grid([rows, columns]: [usize; 2], depth: usize, panel: usize, threads: usize) -> [usize; 2] {
    let [down, across] = [rows.div_ceil(TILE[0]), columns.div_ceil(TILE[1])];
    let useful = (rows * columns * depth / SMALL).clamp(1, threads);
    let is_even = |tiles: usize| tiles.is_multiple_of(useful) || tiles >= 4 * useful;
    let wider = (across..=columns.div_ceil(panel)).find(|across| is_even(down * across)).map(|across| [down, across]);
    let taller = || (down..=rows.div_ceil(ROWS)).find(|down| is_even(down * across)).map(|down| [down, across]);
    wider.or_else(taller).unwrap_or([down, across])
}

/// One of some shares of a length, each but the last a multiple of `unit`.
fn share(length: usize, parts: usize, unit: usize, index: usize) -> Range<usize> {
    let units = length.div_ceil(unit);
    let start = |index: usize| (units * index / parts * unit).min(length);
    start(index)..start(index + 1)
}

/// # Safety
/// Nobody else reads or writes the tile, and it lies within C.
unsafe fn compute_tile(
    to: *mut f32,
    stride: usize,
    products: &[Product],
    rows: Range<usize>,
    columns: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let (vector, mut add) = (lanes(level()), false);
    for (left, right) in products {
        let parts = left.columns.div_ceil(DEPTH);
        let [down, across] = left.steps();
        for part in 0..parts {
            let depth = left.columns * part / parts..left.columns * (part + 1) / parts;
            for first in columns.clone().step_by(VECTORS * vector) {
                let of_panel = first..columns.end.min(first + VECTORS * vector);
                let vectors = of_panel.len().div_ceil(vector);
                let size = depth.len() * vectors * vector;
                if scratch.len() < size {
                    scratch.resize(size, 0.0);
                }
                let panel = &mut scratch[..size];
                match right.numbers {
                    Numbers::F32(numbers) => fill(panel, right, numbers, &depth, &of_panel),
                    Numbers::Bf16(numbers) => fill(panel, right, numbers, &depth, &of_panel),
                }
                // SAFETY: rows and depth are within the left matrix, whose numbers are there; the tile is within C.
                unsafe {
                    let start = left.numbers.as_ptr().add(rows.start * down + depth.start * across);
                    let left = Left { start, rows: rows.len(), row: down, step: across };
                    let out = Out { start: to.add(rows.start * stride + first), row: stride, columns: of_panel.len(), add };
                    stripe(depth.len(), left, panel.as_ptr(), vectors, out);
                }
            }
            add = true;
        }
    }
}

fn fill<T: pack::Stored>(
    panel: &mut [f32],
    right: &Matrix<Numbers>,
    numbers: &[T],
    depth: &Range<usize>,
    columns: &Range<usize>,
) {
    let stride = right.stride;
    if right.turned {
        pack::turned(&numbers[columns.start * stride + depth.start..], stride, columns.len(), depth.len(), panel);
    } else {
        pack::straight(&numbers[depth.start * stride + columns.start..], stride, columns.len(), depth.len(), panel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::draws::{mix, unit};
    use crate::ops::simd::at_every_level;

    impl<N> Matrix<N> {
        fn new(numbers: N, [rows, columns]: [usize; 2]) -> Self {
            Self { numbers, rows, columns, stride: columns, turned: false }
        }
    }

    fn drawn(count: usize, seed: u64) -> Vec<f32> {
        (0..count as u64).map(|index| unit(mix(seed ^ mix(index))) as f32 - 0.5).collect()
    }

    /// A matrix of this shape in numbers that lie straight or turned.
    fn matrix<N>(numbers: N, [rows, columns]: [usize; 2], turned: bool) -> Matrix<N> {
        let stride = if turned { rows } else { columns };
        Matrix { numbers, rows, columns, stride, turned }
    }

    fn exact(products: &[Product], row: usize, column: usize) -> f64 {
        let term = |(left, right): &Product, k: usize| {
            let ([down, across], [right_down, right_across]) = (left.steps(), right.steps());
            let at = k * right_down + column * right_across;
            let right = match right.numbers {
                Numbers::F32(numbers) => numbers[at],
                Numbers::Bf16(numbers) => numbers[at].to_f32(),
            };
            f64::from(left.numbers[row * down + k * across]) * f64::from(right)
        };
        products.iter().map(|product| (0..product.0.columns).map(|k| term(product, k)).sum::<f64>()).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_the_sum_of_the_products(
            [rows, columns] in [1_usize..70, 1_usize..120],
            [depth, low] in [1_usize..900, 1_usize..20],
            turned: [bool; 4],
            seed: u64,
        ) {
            let numbers = [rows * depth, depth * columns, rows * low, low * columns].map(|count| drawn(count, seed ^ count as u64));
            let stored: Vec<bf16> = numbers[1].iter().map(|number| bf16::from_f32(*number)).collect();
            let products = [
                (matrix(&numbers[0][..], [rows, depth], turned[0]), matrix(Numbers::Bf16(&stored), [depth, columns], turned[1])),
                (matrix(&numbers[2][..], [rows, low], turned[2]), matrix(Numbers::F32(&numbers[3]), [low, columns], turned[3])),
            ];
            // Within the bound of a sum in f32: the number of terms times half a unit of the sum of their sizes.
            let bound = (depth + low) as f64 * 6e-8 * (depth + low) as f64 * 0.25;
            for sum in at_every_level(|| sum_of_products(&products)) {
                for (index, number) in sum.iter().enumerate() {
                    let expected = exact(&products, index / columns, index % columns);
                    prop_assert!((f64::from(*number) - expected).abs() <= bound, "{number} for {expected}");
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_on_any_number_of_threads_and_among_any_rows() {
        let shape = [300, 500, 700];
        let (left, right) = (drawn(shape[0] * shape[1], 1), drawn(shape[1] * shape[2], 2));
        let of = |rows: usize| {
            let left = Matrix::new(&left[..rows * shape[1]], [rows, shape[1]]);
            sum_of_products(&[(left, Matrix::new(Numbers::F32(&right), [shape[1], shape[2]]))])
        };
        let on = |threads: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(|| of(shape[0]))
        };
        let one = on(1);
        assert!([2, 3, 16].into_iter().all(|threads| on(threads) == one));
        assert!([1, 7, 8, 9, 100].into_iter().all(|rows| of(rows) == one[..rows * shape[2]]));
    }

    #[test]
    fn nothing_times_nothing_is_nothing() {
        let nothing = |rows, columns| Matrix::new(Numbers::F32(&[]), [rows, columns]);
        assert!(sum_of_products(&[(Matrix::new(&[][..], [0, 4]), Matrix::new(Numbers::F32(&[0.0; 12]), [4, 3]))]).is_empty());
        assert!(sum_of_products(&[(Matrix::new(&[0.0; 4][..], [1, 4]), nothing(4, 0))]).is_empty());
    }

    #[test]
    fn tiles_are_shared_out_evenly() {
        assert_eq!(grid([256, 576], 576, 48, 2), [1, 4]);
        assert_eq!(grid([256, 192], 576, 48, 2), [1, 2]);
        assert_eq!(grid([256, 16], 1536, 48, 2), [2, 1]);
        assert_eq!(grid([1, 16], 16, 48, 2), [1, 1]);
        assert_eq!(grid([2048, 4096], 4096, 48, 2), [8, 29]);
    }
}
