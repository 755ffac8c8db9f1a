//! One row a token of the vocabulary: the embedding, and the head, which is often the same.

use burn::tensor::{DType, Int, Tensor};

use crate::ops::{Base, times};

/// A matrix [vocabulary, width] in pieces of rows, each of which a device takes as one tensor. All but the last have as many rows.
#[derive(Debug, Clone)]
pub struct Table {
    pieces: Vec<Base>,
}

impl From<Tensor<2>> for Table {
    fn from(whole: Tensor<2>) -> Self {
        Self { pieces: vec![whole.into()] }
    }
}

impl Table {
    /// The pieces one below the other.
    ///
    /// # Panics
    /// There is none.
    pub fn of(pieces: Vec<Base>) -> Self {
        assert!(!pieces.is_empty(), "a table has rows");
        Self { pieces }
    }

    /// The whole matrix; `None` where it is in pieces, or packed.
    pub fn whole(&self) -> Option<&Tensor<2>> {
        if let [whole] = &self.pieces[..] { whole.dense() } else { None }
    }

    /// The whole matrix, to be changed; `None` where it is in pieces, or packed.
    pub fn whole_mut(&mut self) -> Option<&mut Tensor<2>> {
        if let [whole] = &mut self.pieces[..] { whole.dense_mut() } else { None }
    }

    /// The first row of each piece, and the piece.
    fn placed(&self) -> impl Iterator<Item = (usize, &Base)> {
        let rows = self.pieces[0].dims()[0];
        self.pieces.iter().enumerate().map(move |(index, piece)| (index * rows, piece))
    }

    /// Rows of the table, [n, width], by their numbers, [n], which may be on another device: the rows come to where the numbers are.
    ///
    /// # Panics
    /// It is packed.
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let (home, asked) = (self.dense(0).device(), ids.device());
        if home == asked {
            return self.select_here(ids);
        }
        let rows = self.select_here(Tensor::from_data(ids.into_data(), &home));
        let numbers = rows.dtype();
        Tensor::from_data(rows.into_data(), (&asked, numbers))
    }

    fn dense(&self, index: usize) -> &Tensor<2> {
        self.pieces[index].dense().expect("rows are looked up in a table of numbers")
    }

    fn select_here(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        if let Some(whole) = self.whole() {
            return whole.clone().select(0, ids);
        }
        let rows = self.placed().enumerate().map(|(index, (first, _))| {
            let piece = self.dense(index);
            let [count, width] = piece.dims();
            let place = ids.clone().sub_scalar(first as u32);
            let is_here = place.clone().greater_equal_elem(0).bool_and(place.clone().lower_elem(count as u32));
            let rows = piece.clone().select(0, place.clamp(0, count as u32 - 1)); // [n, width]
            (rows, is_here.unsqueeze_dim::<2>(1).expand([ids.dims()[0], width]))
        });
        let joined = rows.reduce(|(rows, is_there), (others, is_here)| (rows.mask_where(is_here, others), is_there));
        joined.expect("a table has rows").0
    }

    /// Logits of rows, [n, vocabulary] in f32, given their hidden numbers, [n, width].
    pub fn logits(&self, hidden: &Tensor<2>) -> Tensor<2> {
        let logits = |piece: &Base| times(hidden.clone(), piece.clone().transposed(), DType::F32);
        if let [whole] = &self.pieces[..] { logits(whole) } else { Tensor::cat(self.pieces.iter().map(logits).collect(), 1) }
    }

    /// The gradient of the hidden numbers, [n, width], given that of the logits, [n, vocabulary].
    pub fn hidden_gradient(&self, of_logits: &Tensor<2>) -> Tensor<2> {
        let through = |(first, piece): (usize, &Base)| {
            let of_piece =
                if self.pieces.len() == 1 { of_logits.clone() } else { of_logits.clone().narrow(1, first, piece.dims()[0]) };
            times(of_piece, piece.clone(), of_logits.dtype())
        };
        self.placed().map(through).reduce(|sum, of_piece| sum + of_piece).expect("a table has rows")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn a_table_in_pieces_is_the_whole_one() {
        let device = Device::flex();
        let numbers = |rows: usize, columns: usize, step: f32| {
            let numbers = (0..rows * columns).map(|place| (place as f32 * step).sin()).collect();
            Tensor::<2>::from_data(TensorData::new(numbers, [rows, columns]), &device)
        };
        let (table, hidden, of_logits) = (numbers(11, 3, 0.7), numbers(5, 3, 1.3), numbers(5, 11, 0.3));
        let ids = Tensor::<1, Int>::from_data([10, 0, 4, 3, 7, 8, 4], &device);
        let whole = Table::from(table.clone());
        for rows in [1, 4, 10] {
            let pieces = (0..11).step_by(rows).map(|first| table.clone().narrow(0, first, rows.min(11 - first)).into());
            let split = Table::of(pieces.collect());
            assert!(split.whole().is_none());
            split.select(ids.clone()).into_data().assert_eq(&whole.select(ids.clone()).into_data(), true);
            split.logits(&hidden).into_data().assert_eq(&whole.logits(&hidden).into_data(), true);
            let difference = split.hidden_gradient(&of_logits) - whole.hidden_gradient(&of_logits);
            assert!(difference.abs().max().into_scalar::<f32>() < 1e-6, "{rows} rows a piece");
        }
    }
}
