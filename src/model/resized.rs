//! Rows of embedding and head that a base's files do not have: those of new tokens, after the
//! stored ones or in place of unused rows.
//!
//! They begin as the mean of all stored rows, as in transformers' `resize_token_embeddings` (there
//! with noise around the mean, Hewitt 2021,
//! <https://nlp.stanford.edu/~johnhew/vocab-expansion.html>; here without), or as a copy of another
//! row.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};

use super::assemble::WeightSource;
use super::{ModelError, Slice};
use crate::quant::{QuantFormat, Quantized};

/// Rows that are read at a time for a mean.
const CHUNK_ROWS: usize = 1024;

/// Initial numbers of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewRow {
    /// The mean of all stored rows.
    Mean,
    /// A copy of this token's row.
    Copy(u32),
}

/// New rows of the tables of the vocabulary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRows {
    /// The number of rows afterwards, where that is more than before. Rows that are not listed are
    /// 0.
    pub vocabulary: usize,
    /// New rows by token.
    pub rows: BTreeMap<u32, NewRow>,
}

/// A source whose tables have new rows.
pub(super) struct Resized<'a> {
    source: &'a dyn WeightSource,
    rows: &'a NewRows,
    stored_rows: usize,
    tables: [String; 2],
    /// Means of rows, by table.
    means: RefCell<BTreeMap<String, Vec<f32>>>,
}

impl<'a> Resized<'a> {
    /// Makes the source. `tables` are the names of the tensors of embedding and head, which have
    /// `stored_rows` rows.
    pub fn new(
        source: &'a dyn WeightSource,
        rows: &'a NewRows,
        stored_rows: usize,
        tables: [String; 2],
    ) -> Self {
        Self {
            source,
            rows,
            stored_rows,
            tables,
            means: RefCell::default(),
        }
    }

    /// Returns a new row, [columns].
    fn row(&self, name: &str, row: NewRow, columns: usize) -> Result<Vec<f32>, ModelError> {
        match row {
            NewRow::Copy(from) => {
                let from = from as usize;
                Ok(self
                    .source
                    .rows(name, from..from + 1, columns, DType::F32)?
                    .iter()
                    .collect())
            }
            NewRow::Mean => {
                if let Some(mean) = self.means.borrow().get(name) {
                    return Ok(mean.clone());
                }
                let mean = self.mean(name, columns)?;
                self.means
                    .borrow_mut()
                    .insert(name.to_owned(), mean.clone());
                Ok(mean)
            }
        }
    }

    /// Returns the mean of a table's rows, summed in f64 in the order of the rows.
    fn mean(&self, name: &str, columns: usize) -> Result<Vec<f32>, ModelError> {
        let mut sums = vec![0.0; columns];
        for first in (0..self.stored_rows).step_by(CHUNK_ROWS) {
            let chunk = first..self.stored_rows.min(first + CHUNK_ROWS);
            let numbers: Vec<f32> = self
                .source
                .rows(name, chunk, columns, DType::F32)?
                .iter()
                .collect();
            for row in numbers.chunks(columns) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, number)| *sum += f64::from(*number));
            }
        }
        Ok(sums
            .into_iter()
            .map(|sum| (sum / self.stored_rows as f64) as f32)
            .collect())
    }
}

/// Encodes numbers as the bytes of a tensor.
fn encoded(numbers: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::BF16 => numbers
            .iter()
            .flat_map(|number| bf16::from_f32(*number).to_ne_bytes())
            .collect(),
        DType::F16 => numbers
            .iter()
            .flat_map(|number| f16::from_f32(*number).to_ne_bytes())
            .collect(),
        _ => numbers
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect(),
    }
}

impl WeightSource for Resized<'_> {
    /// Returns a vector. That of a head's bias is 0 for new rows.
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let mut numbers = self.source.vector(name, length)?;
        numbers.resize(length, 0.0);
        Ok(numbers)
    }

    fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let is_new =
            |row: usize| row >= self.stored_rows || self.rows.rows.contains_key(&(row as u32));
        if !self.tables.iter().any(|table| table == name) || !rows.clone().any(is_new) {
            return self.source.rows(name, rows, columns, dtype);
        }
        let stored = rows.start.min(self.stored_rows)..rows.end.min(self.stored_rows);
        let mut bytes = if stored.is_empty() {
            Vec::new()
        } else {
            self.source
                .rows(name, stored, columns, dtype)?
                .as_bytes()
                .to_vec()
        };
        // What no token has is 0 in every type.
        let row_bytes = columns * dtype.size();
        bytes.resize(rows.len() * row_bytes, 0);
        for (token, row) in self.rows.rows.range(rows.start as u32..rows.end as u32) {
            let place = (*token as usize - rows.start) * row_bytes;
            bytes[place..place + row_bytes]
                .copy_from_slice(&encoded(&self.row(name, *row, columns)?, dtype));
        }
        Ok(TensorData::from_bytes_vec(
            bytes,
            [rows.len(), columns],
            dtype,
        ))
    }

    fn transposed(
        &self,
        name: &str,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        self.source.transposed(name, shape, dtype)
    }

    fn slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        self.source.slice(slice, shape, dtype)
    }

    fn packed_slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
    ) -> Result<Option<Quantized>, ModelError> {
        self.source.packed_slice(slice, shape)
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn stays_dense(&self, name: &str, shape: [usize; 2]) -> bool {
        self.source.stays_dense(name, shape)
    }

    fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError> {
        self.source.packed(name, shape, form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables with 3 rows of 2 numbers: 0 to 5 in `embedding`, ten times that in `head`.
    struct Stored;

    impl WeightSource for Stored {
        fn vector(&self, _: &str, length: usize) -> Result<Vec<f32>, ModelError> {
            Ok(vec![1.0; length])
        }

        fn rows(
            &self,
            name: &str,
            rows: Range<usize>,
            columns: usize,
            dtype: DType,
        ) -> Result<TensorData, ModelError> {
            let scale = if name == "head" { 10.0 } else { 1.0 };
            let numbers: Vec<f32> = (rows.start * columns..rows.end * columns)
                .map(|number| number as f32 * scale)
                .collect();
            Ok(TensorData::from_bytes_vec(
                encoded(&numbers, dtype),
                [rows.len(), columns],
                dtype,
            ))
        }

        fn transposed(&self, _: &str, _: [usize; 2], _: DType) -> Result<TensorData, ModelError> {
            unreachable!()
        }

        fn slice(&self, _: &Slice, _: [usize; 2], _: DType) -> Result<TensorData, ModelError> {
            unreachable!()
        }

        fn packed_slice(
            &self,
            _slice: &Slice,
            _shape: [usize; 2],
        ) -> Result<Option<Quantized>, ModelError> {
            Ok(None)
        }

        fn stays_dense(&self, _: &str, _: [usize; 2]) -> bool {
            false
        }

        fn packed(&self, _: &str, _: [usize; 2], _: QuantFormat) -> Result<Quantized, ModelError> {
            unreachable!()
        }
    }

    #[test]
    fn new_rows_are_means_and_copies_and_the_others_stay() {
        let rows = NewRows {
            vocabulary: 6,
            rows: BTreeMap::from([(2, NewRow::Mean), (3, NewRow::Mean), (4, NewRow::Copy(1))]),
        };
        let resized = Resized::new(
            &Stored,
            &rows,
            3,
            ["embedding".to_owned(), "head".to_owned()],
        );
        let numbers = |name: &str, rows: Range<usize>, dtype| {
            resized
                .rows(name, rows, 2, dtype)
                .expect("rows")
                .iter::<f32>()
                .collect::<Vec<_>>()
        };
        let whole = [0.0, 1.0, 2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 0.0, 0.0];
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            assert_eq!(numbers("embedding", 0..6, dtype), whole);
            let pieces: Vec<f32> = (0..6)
                .step_by(2)
                .flat_map(|first| numbers("embedding", first..first + 2, dtype))
                .collect();
            assert_eq!(pieces, whole);
        }
        assert_eq!(numbers("head", 3..5, DType::F32), [20.0, 30.0, 20.0, 30.0]);
        assert_eq!(
            numbers("other", 2..3, DType::F32),
            [4.0, 5.0],
            "tables only"
        );
    }
}
