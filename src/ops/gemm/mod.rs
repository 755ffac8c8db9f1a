//! Sums of matrix products on the CPU, `C = Σ AᵢBᵢ`, in f32.
//!
//! No crate of products offers all of this: a right matrix that is stored in 16, 8 or 4 bits and
//! never widened as a whole, a low-rank product added while the tile of C is in the cache, and sums
//! whose order depends on nothing except the depth: not on the number of threads, not on the other
//! rows. Blocks and packing are those of Goto and van de Geijn 2008,
//! <https://doi.org/10.1145/1356052.1356053>.
#![allow(
    unsafe_code,
    reason = "tiles of one matrix are written by several threads, each its own columns"
)]

mod kernel;
mod pack;
mod unpack;

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use self::kernel::{Left, Out, VECTORS, lanes, stripe};
use crate::ops::simd::level;
use crate::quant::Quantized;

/// Rows and columns of a tile of C: a tile, its rows of A and its panels of B fit into the
/// second-level cache together.
const TILE: [usize; 2] = [256, 144];
/// Numbers of a sum that are added before they are added to C.
const DEPTH: usize = 384;
/// Rows that are not split between threads.
const ROWS: usize = 8;
/// Multiply-adds below which another thread costs more than it gains.
const SMALL: usize = 1 << 19;

/// Numbers of a matrix, in their stored format.
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    /// The numbers of a packed weight from `start` on, in its order.
    Packed {
        weight: &'a Quantized,
        start: usize,
    },
}

impl Numbers<'_> {
    fn len(self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
            Self::Packed { weight, start } => weight.shape().into_iter().product::<usize>() - start,
        }
    }
}

/// A matrix stored by rows, or, where turned, by columns. The transpose has the same numbers,
/// turned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<N> {
    pub numbers: N,
    pub rows: usize,
    pub columns: usize,
    /// Distance from the start of one row (or column, where turned) to the next.
    pub stride: usize,
    pub turned: bool,
}

impl<N> Matrix<N> {
    /// Applies `of` to the numbers.
    pub fn map<M>(self, of: impl FnOnce(N) -> M) -> Matrix<M> {
        let Self {
            numbers,
            rows,
            columns,
            stride,
            turned,
        } = self;
        Matrix {
            numbers: of(numbers),
            rows,
            columns,
            stride,
            turned,
        }
    }

    /// Returns the distances to the next row and to the next column.
    fn steps(&self) -> [usize; 2] {
        if self.turned {
            [1, self.stride]
        } else {
            [self.stride, 1]
        }
    }

    /// Returns the length from the first number to the last.
    fn reach(&self) -> usize {
        let (outer, inner) = if self.turned {
            (self.columns, self.rows)
        } else {
            (self.rows, self.columns)
        };
        if outer == 0 || inner == 0 {
            0
        } else {
            (outer - 1) * self.stride + inner
        }
    }
}

/// One product of a sum; the right matrix may be given in pieces, one below the other.
pub(super) type Product<'a> = (Matrix<&'a [f32]>, Vec<Matrix<Numbers<'a>>>);

/// A wanted matrix: some sums of products, their columns side by side, and a matrix to add to all
/// of it.
#[derive(Debug)]
pub(super) struct ProductSum<'a> {
    pub sums: Vec<Vec<Product<'a>>>,
    pub added: Option<Matrix<&'a [f32]>>,
}

impl ProductSum<'_> {
    fn rows(&self) -> usize {
        self.sums[0][0].0.rows
    }

    /// Returns the number of columns of each sum.
    fn columns(&self) -> impl Iterator<Item = usize> {
        self.sums.iter().map(|sum| sum[0].1[0].columns)
    }

    /// Returns its tiles, for so many threads.
    fn tiles(&self, of: usize, panel: usize, threads: usize) -> Vec<Tile> {
        let shape = [self.rows(), self.columns().sum()];
        let depth = |sum: &Vec<Product>| sum.iter().map(|(left, _)| left.columns).sum::<usize>();
        let multiply_adds: usize = self
            .sums
            .iter()
            .zip(self.columns())
            .map(|(sum, columns)| depth(sum) * columns)
            .sum();
        let [down, across] = grid(shape, multiply_adds / shape[1].max(1), panel, threads);
        let tile = |index: usize| {
            let rows = share(shape[0], down, ROWS, index / across);
            let columns = share(shape[1], across, panel, index % across);
            Tile {
                of,
                rows,
                columns,
                place: (index << 16) / (down * across),
            }
        };
        (0..down * across).map(tile).collect()
    }

    fn check(&self) {
        let shape = [self.rows(), self.columns().sum()];
        for (sum, columns) in self.sums.iter().zip(self.columns()) {
            for (left, right) in sum {
                let depth: usize = right.iter().map(|piece| piece.rows).sum();
                let fit = right.iter().all(|piece| piece.columns == columns);
                assert!(
                    left.rows == shape[0] && left.columns == depth && fit,
                    "shapes of a product fit"
                );
                let present = right
                    .iter()
                    .all(|piece| piece.reach() <= piece.numbers.len());
                assert!(
                    left.reach() <= left.numbers.len() && present,
                    "matrices have their numbers"
                );
            }
        }
        if let Some(added) = &self.added {
            let fits = [added.rows, added.columns] == shape && !added.turned;
            assert!(
                fits && added.reach() <= added.numbers.len(),
                "what is added fits"
            );
        }
    }
}

/// A part of a wanted matrix.
struct Tile {
    of: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Its place among its matrix's tiles, in units of 1/65536.
    place: usize,
}

/// Computes the wanted matrices, each with its rows one behind the other. They are computed
/// together: a thread that has finished its part of one goes on with the next.
pub(super) fn matrices(wanted: &[ProductSum]) -> Vec<Vec<f32>> {
    wanted.iter().for_each(ProductSum::check);
    let room = |wanted: &ProductSum| {
        Vec::<f32>::with_capacity(wanted.rows() * wanted.columns().sum::<usize>())
    };
    let mut matrices: Vec<Vec<f32>> = wanted.iter().map(room).collect();
    let places: Vec<Shared> = matrices
        .iter_mut()
        .map(|matrix| Shared(matrix.as_mut_ptr()))
        .collect();
    let (panel, threads) = (VECTORS * lanes(level()), rayon::current_num_threads());
    let mut tiles: Vec<Tile> = wanted
        .iter()
        .enumerate()
        .flat_map(|(of, wanted)| wanted.tiles(of, panel, threads))
        .collect();
    // Threads take equal stretches of the row of tiles first: each is to hold as much of every
    // matrix.
    tiles.sort_by_key(|tile| tile.place);
    let compute = |tile: &Tile| {
        // SAFETY: tiles do not overlap, and lie within their matrices, whose room is there; the
        // operands were checked.
        SCRATCH.with_borrow_mut(|scratch| unsafe {
            compute_tile(places[tile.of].0, &wanted[tile.of], tile, scratch);
        });
    };
    match &tiles[..] {
        [tile] => compute(tile),
        tiles => tiles.par_iter().with_max_len(1).for_each(compute),
    }
    for (matrix, wanted) in matrices.iter_mut().zip(wanted) {
        // SAFETY: each of the numbers was written.
        unsafe { matrix.set_len(wanted.rows() * wanted.columns().sum::<usize>()) };
    }
    matrices
}

/// Memory that several threads write, each its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the tiles are disjoint.
unsafe impl Sync for Shared {}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Returns the number of tiles of C, down and across.
fn grid([rows, columns]: [usize; 2], depth: usize, panel: usize, threads: usize) -> [usize; 2] {
    let [down, across] = [rows.div_ceil(TILE[0]), columns.div_ceil(TILE[1])];
    let useful = (rows * columns * depth / SMALL).clamp(1, threads);
    let is_even = |tiles: usize| tiles.is_multiple_of(useful) || tiles >= 4 * useful;
    let wider = (across..=columns.div_ceil(panel))
        .find(|across| is_even(down * across))
        .map(|across| [down, across]);
    let taller = || {
        (down..=rows.div_ceil(ROWS))
            .find(|down| is_even(down * across))
            .map(|down| [down, across])
    };
    wider.or_else(taller).unwrap_or([down, across])
}

/// Returns one share of a length; each except the last is a multiple of `unit`.
fn share(length: usize, parts: usize, unit: usize, index: usize) -> Range<usize> {
    let units = length.div_ceil(unit);
    let start = |index: usize| (units * index / parts * unit).min(length);
    start(index)..start(index + 1)
}

/// Computes a tile.
///
/// # Safety
/// Nobody else may read or write the tile, which must lie within the matrix, and the operands must
/// have been checked.
unsafe fn compute_tile(to: *mut f32, wanted: &ProductSum, tile: &Tile, scratch: &mut Vec<f32>) {
    let stride: usize = wanted.columns().sum();
    let mut before = 0;
    for (sum, columns) in wanted.sums.iter().zip(wanted.columns()) {
        let [start, end] = [tile.columns.start, tile.columns.end]
            .map(|column| column.clamp(before, before + columns) - before);
        // SAFETY: the columns are of this sum, which begins here; the rest is the caller's.
        unsafe {
            compute_sum(
                to.add(before),
                stride,
                sum,
                [tile.rows.clone(), start..end],
                scratch,
            );
        };
        before += columns;
    }
    if let Some(added) = &wanted.added {
        for row in tile.rows.clone() {
            // SAFETY: the row of the tile was written, and nobody else has it.
            let numbers = unsafe {
                std::slice::from_raw_parts_mut(
                    to.add(row * stride + tile.columns.start),
                    tile.columns.len(),
                )
            };
            let added = &added.numbers[row * added.stride..][tile.columns.clone()];
            numbers
                .iter_mut()
                .zip(added)
                .for_each(|(number, added)| *number += added);
        }
    }
}

/// Computes a sum of products.
///
/// # Safety
/// As for [`compute_tile`], for rows and columns of one sum, which begins at `to`.
unsafe fn compute_sum(
    to: *mut f32,
    stride: usize,
    sum: &[Product],
    [rows, columns]: [Range<usize>; 2],
    scratch: &mut Vec<f32>,
) {
    let (vector, mut add) = (lanes(level()), false);
    for (left, right) in sum {
        let parts = left.columns.div_ceil(DEPTH);
        let [down, across] = left.steps();
        for part in 0..parts {
            let depth = left.columns * part / parts..left.columns * (part + 1) / parts;
            for first in columns.clone().step_by(VECTORS * vector) {
                let of_panel = first..columns.end.min(first + VECTORS * vector);
                let vectors = of_panel.len().div_ceil(vector);
                let size = depth.len() * vectors * vector;
                // As much again for what is unpacked before it is turned.
                if scratch.len() < 2 * size {
                    scratch.resize(2 * size, 0.0);
                }
                let (panel, rest) = scratch.split_at_mut(size);
                fill(panel, right, &depth, &of_panel, rest);
                // SAFETY: rows and depth are within the left matrix, whose numbers are there; the
                // tile is within C.
                unsafe {
                    let start = left
                        .numbers
                        .as_ptr()
                        .add(rows.start * down + depth.start * across);
                    let left = Left {
                        start,
                        rows: rows.len(),
                        row: down,
                        step: across,
                    };
                    let out = Out {
                        start: to.add(rows.start * stride + first),
                        row: stride,
                        columns: of_panel.len(),
                        add,
                    };
                    stripe(depth.len(), left, panel.as_ptr(), vectors, out);
                }
            }
            add = true;
        }
    }
    if !add {
        // SAFETY: a sum of nothing is zero, and the tile is within C.
        rows.for_each(|row| unsafe {
            to.add(row * stride + columns.start)
                .write_bytes(0, columns.len());
        });
    }
}

/// Fills a panel with some rows and columns of a right matrix, whose pieces lie one below the
/// other. `unpacked` has room for as many.
fn fill(
    panel: &mut [f32],
    right: &[Matrix<Numbers>],
    depth: &Range<usize>,
    columns: &Range<usize>,
    unpacked: &mut [f32],
) {
    let width = panel.len() / depth.len();
    let mut above = 0;
    for piece in right {
        let [start, end] =
            [depth.start, depth.end].map(|k| k.clamp(above, above + piece.rows) - above);
        if start < end {
            let from = above + start - depth.start;
            let panel = &mut panel[from * width..][..(end - start) * width];
            match piece.numbers {
                Numbers::F32(numbers) => fill_piece(panel, piece, numbers, &(start..end), columns),
                Numbers::Bf16(numbers) => fill_piece(panel, piece, numbers, &(start..end), columns),
                Numbers::Packed {
                    weight,
                    start: first,
                } => {
                    // As many lines as the panel has columns, or rows.
                    let (lines, line) = if piece.turned {
                        (columns.clone(), start..end)
                    } else {
                        (start..end, columns.clone())
                    };
                    let unpacked = &mut unpacked[..lines.len() * line.len()];
                    for (of_line, unpacked) in lines.zip(unpacked.chunks_exact_mut(line.len())) {
                        unpack::numbers(
                            weight,
                            first + of_line * piece.stride + line.start,
                            unpacked,
                        );
                    }
                    if piece.turned {
                        pack::turned(unpacked, line.len(), columns.len(), end - start, panel);
                    } else {
                        pack::straight(unpacked, line.len(), columns.len(), end - start, panel);
                    }
                }
            }
        }
        above += piece.rows;
    }
}

fn fill_piece<T: pack::StoredNumber>(
    panel: &mut [f32],
    right: &Matrix<Numbers>,
    numbers: &[T],
    depth: &Range<usize>,
    columns: &Range<usize>,
) {
    let stride = right.stride;
    if right.turned {
        pack::turned(
            &numbers[columns.start * stride + depth.start..],
            stride,
            columns.len(),
            depth.len(),
            panel,
        );
    } else {
        pack::straight(
            &numbers[depth.start * stride + columns.start..],
            stride,
            columns.len(),
            depth.len(),
            panel,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keyed_random::{mix, unit};
    use crate::ops::simd::at_every_level;
    use crate::quant::QuantFormat;

    impl<N> Matrix<N> {
        fn new(numbers: N, [rows, columns]: [usize; 2]) -> Self {
            Self {
                numbers,
                rows,
                columns,
                stride: columns,
                turned: false,
            }
        }
    }

    fn drawn(count: usize, seed: u64) -> Vec<f32> {
        (0..count as u64)
            .map(|index| unit(mix(seed ^ mix(index))) as f32 - 0.5)
            .collect()
    }

    /// Makes a matrix of this shape whose numbers lie straight or turned.
    fn matrix<N>(numbers: N, [rows, columns]: [usize; 2], turned: bool) -> Matrix<N> {
        let stride = if turned { rows } else { columns };
        Matrix {
            numbers,
            rows,
            columns,
            stride,
            turned,
        }
    }

    fn sum_of_products(products: Vec<Product>) -> Vec<f32> {
        matrices(&[ProductSum {
            sums: vec![products],
            added: None,
        }])
        .remove(0)
    }

    fn exact(products: &[Product], row: usize, column: usize) -> f64 {
        let term = |(left, right): &Product, k: usize| {
            let [down, across] = left.steps();
            let (mut piece, mut of_piece) = (0, k);
            while of_piece >= right[piece].rows {
                of_piece -= right[piece].rows;
                piece += 1;
            }
            let [right_down, right_across] = right[piece].steps();
            let at = of_piece * right_down + column * right_across;
            let right = match right[piece].numbers {
                Numbers::F32(numbers) => numbers[at],
                Numbers::Bf16(numbers) => numbers[at].to_f32(),
                Numbers::Packed { weight, start } => {
                    let mut number = [0.0];
                    weight.unpack_range(start + at, &mut number);
                    number[0]
                }
            };
            f64::from(left.numbers[row * down + k * across]) * f64::from(right)
        };
        products
            .iter()
            .map(|product| {
                (0..product.0.columns)
                    .map(|k| term(product, k))
                    .sum::<f64>()
            })
            .sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_the_sum_of_the_products(
            [rows, columns] in [1_usize..70, 1_usize..120],
            [depth, low] in [1_usize..900, 1_usize..20],
            turned: [bool; 4],
            is_packed: bool,
            seed: u64,
        ) {
            let numbers = [rows * depth, depth * columns, rows * low, low * columns]
                .map(|count| drawn(count, seed ^ count as u64));
            let stored: Vec<bf16> = numbers[1]
                .iter()
                .map(|number| bf16::from_f32(*number))
                .collect();
            let shape = if turned[1] {
                [columns, depth]
            } else {
                [depth, columns]
            };
            let packed = QuantFormat::QLORA.pack(shape, &numbers[1]).expect("finite");
            let right = || {
                if is_packed {
                    Numbers::Packed {
                        weight: &packed,
                        start: 0,
                    }
                } else {
                    Numbers::Bf16(&stored)
                }
            };
            let products = || {
                vec![
                    (
                        matrix(&numbers[0][..], [rows, depth], turned[0]),
                        vec![matrix(right(), [depth, columns], turned[1])],
                    ),
                    (
                        matrix(&numbers[2][..], [rows, low], turned[2]),
                        vec![matrix(Numbers::F32(&numbers[3]), [low, columns], turned[3])],
                    ),
                ]
            };
            // Within the bound of a sum in f32: the number of terms times half a unit of the sum of
            // their sizes.
            let bound = (depth + low) as f64 * 6e-8 * (depth + low) as f64 * 0.25;
            for sum in at_every_level(|| sum_of_products(products())) {
                for (index, number) in sum.iter().enumerate() {
                    let expected = exact(&products(), index / columns, index % columns);
                    prop_assert!(
                        (f64::from(*number) - expected).abs() <= bound,
                        "{number} for {expected}"
                    );
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn matrices_are_computed_together_in_columns_and_from_pieces(
            [rows, depth, other] in [1_usize..70, 1_usize..500, 1_usize..60],
            columns in [1_usize..120, 1_usize..60, 1_usize..20],
            turned: [bool; 2],
            seed: u64,
        ) {
            let (width, above): (usize, usize) = (columns.iter().sum(), depth / 3);
            let left = drawn(rows * depth, seed);
            let rights = columns.map(|columns| drawn(depth * columns, seed ^ columns as u64));
            let (added, short) = (drawn(rows * width, !seed), drawn(other * rows, seed ^ 7));
            let pieces = |numbers: &'_ [f32], columns: usize| -> Vec<Matrix<Numbers<'static>>> {
                // Pieces of their own, so that the upper may lie straight and the lower turned.
                let piece = |rows: Range<usize>, turned: bool| {
                    let size = [rows.len(), columns];
                    let at = |index: usize| {
                        let [row, column] = if turned {
                            [index % size[0], index / size[0]]
                        } else {
                            [index / columns, index % columns]
                        };
                        numbers[(rows.start + row) * columns + column]
                    };
                    let numbers: Vec<f32> = (0..size[0] * columns).map(at).collect();
                    matrix(Numbers::F32(numbers.leak()), size, turned)
                };
                vec![piece(0..above, turned[0]), piece(above..depth, turned[1])]
            };
            let sum = |which: usize| {
                let right = pieces(&rights[which], columns[which]);
                vec![(matrix(&left[..], [rows, depth], false), right)]
            };
            let turned_left = matrix(&short[..], [other, rows], true);
            let own_right = vec![matrix(Numbers::F32(&left), [rows, depth], false)];
            let wanted = [
                ProductSum {
                    sums: (0..3).map(sum).collect(),
                    added: Some(matrix(&added[..], [rows, width], false)),
                },
                ProductSum {
                    sums: vec![vec![(turned_left, own_right)]],
                    added: None,
                },
            ];
            let bound = depth.max(rows) as f64 * 6e-8 * depth.max(rows) as f64 * 0.25 + 1e-7;
            for computed in at_every_level(|| matrices(&wanted)) {
                for (index, number) in computed[0].iter().enumerate() {
                    let (row, mut column, mut which) = (index / width, index % width, 0);
                    while column >= columns[which] {
                        column -= columns[which];
                        which += 1;
                    }
                    let expected =
                        exact(&wanted[0].sums[which], row, column) + f64::from(added[index]);
                    prop_assert!(
                        (f64::from(*number) - expected).abs() <= bound,
                        "{number} for {expected}"
                    );
                }
                for (index, number) in computed[1].iter().enumerate() {
                    let expected = exact(&wanted[1].sums[0], index / depth, index % depth);
                    prop_assert!(
                        (f64::from(*number) - expected).abs() <= bound,
                        "{number} for {expected}"
                    );
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
            sum_of_products(vec![(
                left,
                vec![Matrix::new(Numbers::F32(&right), [shape[1], shape[2]])],
            )])
        };
        let on = |threads: usize| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool")
                .install(|| of(shape[0]))
        };
        let one = on(1);
        assert!([2, 3, 16].into_iter().all(|threads| on(threads) == one));
        assert!(
            [1, 7, 8, 9, 100]
                .into_iter()
                .all(|rows| of(rows) == one[..rows * shape[2]])
        );
    }

    #[test]
    fn nothing_times_nothing_is_nothing() {
        let nothing = |rows, columns| Matrix::new(Numbers::F32(&[]), [rows, columns]);
        let some = || vec![Matrix::new(Numbers::F32(&[0.0; 12]), [4, 3])];
        assert!(sum_of_products(vec![(Matrix::new(&[][..], [0, 4]), some())]).is_empty());
        assert!(
            sum_of_products(vec![(
                Matrix::new(&[0.0; 4][..], [1, 4]),
                vec![nothing(4, 0)]
            )])
            .is_empty()
        );
        assert_eq!(
            sum_of_products(vec![(Matrix::new(&[][..], [2, 0]), vec![nothing(0, 3)])]),
            [0.0; 6]
        );
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
