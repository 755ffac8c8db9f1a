//! One row a token of the vocabulary: the embedding, and the head, which is often the same.

use burn::tensor::{DType, Int, Tensor};

use crate::ops::{matmul, matmul_as};

/// A matrix [vocabulary, width] in pieces of rows, each of which a device takes as one tensor. All but the last have as many rows.
#[derive(Debug, Clone)]
pub struct Table {
    pieces: Vec<Tensor<2>>,
}

impl From<Tensor<2>> for Table {
    fn from(whole: Tensor<2>) -> Self {
        Self { pieces: vec![whole] }
    }
}

impl Table {
    /// The pieces one below the other.
    ///
    /// # Panics
    /// There is none.
    pub fn of(pieces: Vec<Tensor<2>>) -> Self {
        assert!(!pieces.is_empty(), "a table has rows");
        Self { pieces }
    }

    /// The whole matrix; `None` where it is in pieces.
    pub fn whole(&self) -> Option<&Tensor<2>> {
        if let [whole] = &self.pieces[..] { Some(whole) } else { None }
    }

    /// The whole matrix, to be changed; `None` where it is in pieces.
    pub fn whole_mut(&mut self) -> Option<&mut Tensor<2>> {
        if let [whole] = &mut self.pieces[..] { Some(whole) } else { None }
    }

    /// The first row of each piece, and the piece.
    fn placed(&self) -> impl Iterator<Item = (usize, &Tensor<2>)> {
        let rows = self.pieces[0].dims()[0];
        self.pieces.iter().enumerate().map(move |(index, piece)| (index * rows, piece))
    }

    /// Rows of the table, [n, width], by their numbers, [n].
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        if let Some(whole) = self.whole() {
            return whole.clone().select(0, ids);
        }
        let rows = self.placed().map(|(first, piece)| {
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
        let logits = |piece: &Tensor<2>| matmul_as(hidden.clone(), piece.clone().transpose(), DType::F32);
        if let Some(whole) = self.whole() { logits(whole) } else { Tensor::cat(self.pieces.iter().map(logits).collect(), 1) }
    }

    /// The gradient of the hidden numbers, [n, width], given that of the logits, [n, vocabulary].
    pub fn hidden_gradient(&self, of_logits: &Tensor<2>) -> Tensor<2> {
        let through = |(first, piece): (usize, &Tensor<2>)| {
            let of_piece =
                if self.pieces.len() == 1 { of_logits.clone() } else { of_logits.clone().narrow(1, first, piece.dims()[0]) };
            matmul(of_piece, piece.clone())
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
            let pieces = (0..11).step_by(rows).map(|first| table.clone().narrow(0, first, rows.min(11 - first)));
            let split = Table::of(pieces.collect());
            assert!(split.whole().is_none());
            split.select(ids.clone()).into_data().assert_eq(&whole.select(ids.clone()).into_data(), true);
            split.logits(&hidden).into_data().assert_eq(&whole.logits(&hidden).into_data(), true);
            let difference = split.hidden_gradient(&of_logits) - whole.hidden_gradient(&of_logits);
            assert!(difference.abs().max().into_scalar::<f32>() < 1e-6, "{rows} rows a piece");
        }
    }
}
