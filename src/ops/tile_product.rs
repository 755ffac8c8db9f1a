//! The product of two tiles, with sums in registers.

use crate::ops::simd::Arithmetic;

/// The memory layout of the left operand.
#[derive(Debug, Clone, Copy)]
pub(super) enum OperandLayout {
    /// Row after row.
    Rows,
    /// Column after column.
    Columns,
}

/// The left operand, [rows, depth].
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) numbers: &'a [f32],
    /// Distance from one row or column to the next.
    pub(super) stride: usize,
    pub(super) order: OperandLayout,
    pub(super) rows: usize,
    pub(super) depth: usize,
}

/// The use of the numbers that C holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    Overwrite,
    Add,
}

/// Computes C = A B or C += A B.
///
/// # Shapes
/// `b` [depth, columns], `c` [rows, columns], where the columns are a multiple of 16.
#[inline(always)]
pub(super) fn product<A: Arithmetic>(
    a: Left,
    b: &[f32],
    c: &mut [f32],
    columns: usize,
    onto: Onto,
) {
    // Rows and columns of sums in registers: 16 of 32 with AVX-512, 8 of 16 elsewhere, the rest for
    // B.
    match A::REGISTER {
        16 => columns_of::<A, 64>(a, b, c, columns, onto),
        8 => columns_of::<A, 16>(a, b, c, columns, onto),
        _ => columns_of::<A, 8>(a, b, c, columns, onto),
    }
}

#[inline(always)]
fn columns_of<A: Arithmetic, const N: usize>(
    a: Left,
    b: &[f32],
    c: &mut [f32],
    columns: usize,
    onto: Onto,
) {
    let mut column = 0;
    while column + N <= columns {
        rows_of::<A, N>(a, b, c, columns, column, onto);
        column += N;
    }
    while column + 16 <= columns {
        rows_of::<A, 16>(a, b, c, columns, column, onto);
        column += 16;
    }
}

#[inline(always)]
fn rows_of<A: Arithmetic, const N: usize>(
    a: Left,
    b: &[f32],
    c: &mut [f32],
    columns: usize,
    column: usize,
    onto: Onto,
) {
    let mut row = 0;
    while row + 4 <= a.rows {
        block::<A, 4, N>(a, row, b, c, columns, column, onto);
        row += 4;
    }
    while row < a.rows {
        block::<A, 1, N>(a, row, b, c, columns, column, onto);
        row += 1;
    }
}

#[inline(always)]
fn block<A: Arithmetic, const R: usize, const N: usize>(
    a: Left,
    row: usize,
    b: &[f32],
    c: &mut [f32],
    columns: usize,
    column: usize,
    onto: Onto,
) {
    let mut sums = [[0.0f32; N]; R];
    let b = b
        .chunks_exact(columns)
        .map(|b| {
            b[column..]
                .first_chunk::<N>()
                .expect("the columns are there")
        })
        .take(a.depth);
    match a.order {
        OperandLayout::Rows => {
            let rows: [&[f32]; R] =
                std::array::from_fn(|r| &a.numbers[(row + r) * a.stride..][..a.depth]);
            for (k, b) in b.enumerate() {
                add::<A, R, N>(&mut sums, std::array::from_fn(|r| rows[r][k]), b);
            }
        }
        OperandLayout::Columns => {
            for (a, b) in a.numbers.chunks(a.stride).zip(b) {
                add::<A, R, N>(
                    &mut sums,
                    *a[row..].first_chunk().expect("the rows are there"),
                    b,
                );
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let c = c[(row + r) * columns + column..]
            .first_chunk_mut::<N>()
            .expect("the columns are there");
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = if onto == Onto::Add { *c + sum } else { *sum };
        }
    }
}

#[inline(always)]
fn add<A: Arithmetic, const R: usize, const N: usize>(
    sums: &mut [[f32; N]; R],
    a: [f32; R],
    b: &[f32; N],
) {
    for (sums, a) in sums.iter_mut().zip(a) {
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum = A::multiply_add(a, *b, *sum);
        }
    }
}
