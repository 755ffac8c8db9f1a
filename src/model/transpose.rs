//! Transposes linear weights from [out, in], as files have them, to [in, out], as products need
//! them. It goes through tiles that fit the cache, with all threads, and converts on the way, so
//! that a model loads at about the speed at which memory can be written.

use std::ops::Range;

use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::files::Float;
use crate::files::float::{Bf16, F16, F32, Number};
use crate::files::safetensors::TensorBytes;

/// Rows and columns of a tile: a line of the processor's cache has as many f32.
const TILE: usize = 16;
/// Numbers per piece of work of a thread where nothing is transposed.
const PIECE: usize = 1 << 14;
/// Bytes of rows that are read as one band.
const BAND_BYTES: usize = 8 << 20;

/// A number type of weights in memory.
pub trait Element: burn::tensor::Element + Default {
    /// Returns the nearest number of the type.
    fn nearest(number: f32) -> Self;

    /// Returns zeroed memory from the system that nobody has written, so that the threads that fill
    /// it are the first to touch it.
    fn zeros(count: usize) -> Vec<Self>;
}

impl Element for f32 {
    #[inline]
    fn nearest(number: f32) -> Self {
        number
    }

    fn zeros(count: usize) -> Vec<Self> {
        vec![0.0; count]
    }
}

impl Element for bf16 {
    #[inline]
    fn nearest(number: f32) -> Self {
        Self::from_le_bytes(Bf16::put(number))
    }

    fn zeros(count: usize) -> Vec<Self> {
        vec![0_u16; count].reinterpret_into()
    }
}

impl Element for f16 {
    #[inline]
    fn nearest(number: f32) -> Self {
        Self::from_f32(number)
    }

    fn zeros(count: usize) -> Vec<Self> {
        vec![0_u16; count].reinterpret_into()
    }
}

/// Reads some numbers in the order in which they are stored.
pub fn read_straight<T: Element>(stored: &TensorBytes, numbers: Range<usize>) -> Vec<T> {
    match stored.float {
        Float::F32 => straight::<F32, T>(stored, numbers),
        Float::F16 => straight::<F16, T>(stored, numbers),
        Float::Bf16 => straight::<Bf16, T>(stored, numbers),
    }
}

fn straight<S: Number<Bytes: Sync>, T: Element>(
    stored: &TensorBytes,
    numbers: Range<usize>,
) -> Vec<T> {
    let (mut output, piece) = (T::zeros(numbers.len()), BAND_BYTES / stored.float.bytes());
    output
        .chunks_mut(piece)
        .enumerate()
        .for_each(|(index, output)| {
            let start = numbers.start + index * piece;
            let source = S::chunks(stored.bytes(start..start + output.len()));
            let convert =
                |(number, bytes): (&mut T, &S::Bytes)| *number = T::nearest(S::get(*bytes));
            output
                .par_iter_mut()
                .zip(source)
                .with_min_len(PIECE)
                .for_each(convert);
        });
    output
}

/// Reads a stored matrix [rows, columns] as [columns, rows].
pub fn read_transposed<T: Element>(stored: &TensorBytes, rows: usize, columns: usize) -> Vec<T> {
    match stored.float {
        Float::F32 => read::<F32, T>(stored, rows, columns),
        Float::F16 => read::<F16, T>(stored, rows, columns),
        Float::Bf16 => read::<Bf16, T>(stored, rows, columns),
    }
}

/// Returns numbers [rows, columns] as [columns, rows].
pub fn transposed_numbers<T: Element>(numbers: &[f32], columns: usize) -> Vec<T> {
    let rows = numbers.len() / columns.max(1);
    let mut output = T::zeros(numbers.len());
    transpose_band(numbers, &mut output, rows, 0..rows, T::nearest);
    output
}

fn read<S: Number<Bytes: Sync>, T: Element>(
    stored: &TensorBytes,
    rows: usize,
    columns: usize,
) -> Vec<T> {
    let mut output = T::zeros(rows * columns);
    let band_rows = (BAND_BYTES / (columns * stored.float.bytes()).max(1)).next_multiple_of(TILE);
    for first in (0..rows).step_by(band_rows) {
        let band = first..rows.min(first + band_rows);
        let source = S::chunks(stored.bytes(band.start * columns..band.end * columns));
        transpose_band(source, &mut output, rows, band, |bytes| {
            T::nearest(S::get(bytes))
        });
    }
    output
}

/// Writes the rows `band` of a matrix, which are all of `source`, to their places in `output`
/// [columns, rows]. Each thread has a strip of columns.
fn transpose_band<S: Copy + Sync, T: Copy + Default + Send>(
    source: &[S],
    output: &mut [T],
    rows: usize,
    band: Range<usize>,
    convert: impl Fn(S) -> T + Copy + Sync,
) {
    let columns = output.len() / rows.max(1);
    let whole_rows = band.len() / TILE * TILE;
    output
        .par_chunks_mut((rows * TILE).max(1))
        .enumerate()
        .for_each(|(strip, output)| {
            let (first, width) = (strip * TILE, output.len() / rows);
            let line = |row: usize| &source[row * columns + first..][..width];
            let tiled_rows = if width == TILE { whole_rows } else { 0 };
            for row in (0..tiled_rows).step_by(TILE) {
                let mut tile = [[T::default(); TILE]; TILE];
                for (down, line) in (row..row + TILE).map(line).enumerate() {
                    let line = line
                        .first_chunk::<TILE>()
                        .expect("the strip is as wide as a tile");
                    for (column, value) in tile.iter_mut().zip(line) {
                        column[down] = convert(*value);
                    }
                }
                for (across, column) in tile.iter().enumerate() {
                    output[across * rows + band.start + row..][..TILE].copy_from_slice(column);
                }
            }
            for row in tiled_rows..band.len() {
                for (across, value) in line(row).iter().enumerate() {
                    output[across * rows + band.start + row] = convert(*value);
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::safetensors::{Archive, write_f32};

    /// Transposes by the definition: element [row, column] becomes element [column, row].
    fn by_definition(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..columns)
            .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
            .collect()
    }

    fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        let mut output = vec![0.0; rows * columns];
        transpose_band(values, &mut output, rows, 0..rows, |value| value);
        output
    }

    #[test]
    fn every_size_around_a_tile_is_the_transpose() {
        for rows in [1, 2, 15, 16, 17, 32, 50] {
            for columns in [1, 3, 15, 16, 17, 31, 64] {
                let values: Vec<f32> = (0..rows * columns).map(|index| index as f32).collect();
                assert_eq!(
                    transposed(&values, rows, columns),
                    by_definition(&values, rows, columns),
                    "{rows} x {columns}"
                );
            }
        }
        assert!(transposed(&[], 0, 3).is_empty() && transposed(&[], 3, 0).is_empty());
    }

    #[test]
    fn a_matrix_of_several_bands_is_read_whole_and_in_either_type() {
        // Rows of 1.2 MB: bands of 16.
        let (rows, columns) = (40, 300_001);
        let values: Vec<f32> = (0..rows * columns)
            .map(|index| (index % 65_521) as f32 * 0.001)
            .collect();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        write_f32(
            &path,
            &[("w".to_owned(), vec![rows, columns], values.clone())],
            &[],
        )
        .expect("written");
        let archive = Archive::open(&path).expect("opened");
        let stored = archive.stored("w").expect("f32").expect("there");
        let expected = by_definition(&values, rows, columns);
        assert!(read_transposed::<f32>(&stored, rows, columns) == expected);
        let rounded: Vec<bf16> = expected
            .iter()
            .map(|number| bf16::from_f32(*number))
            .collect();
        assert!(read_transposed::<bf16>(&stored, rows, columns) == rounded);
        let rounded: Vec<bf16> = values
            .iter()
            .map(|number| bf16::from_f32(*number))
            .collect();
        let whole = 0..rows * columns;
        assert!(
            read_straight::<f32>(&stored, whole.clone()) == values
                && read_straight::<bf16>(&stored, whole) == rounded
        );
        let rounded: Vec<f16> = values.iter().map(|number| f16::from_f32(*number)).collect();
        let some = 3 * columns..11 * columns;
        assert!(read_straight::<f16>(&stored, some.clone()) == rounded[some]);
    }
}
