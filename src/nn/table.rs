//! A table with one row per token of the vocabulary: the embedding, and the head, which is often
//! the same table.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

use super::trainable_table::{self, TrainableTable, Use};
use super::weight::Weight;
use crate::ops::{Base, Mask, times};

/// A matrix [vocabulary, width] in pieces of rows, each of which fits one tensor of the device. All
/// pieces except the last have as many rows.
#[derive(Debug, Clone)]
pub struct EmbeddingTable {
    pieces: Vec<Base>,
    /// What trains of the table.
    pub own: Option<TrainableTable>,
}

impl From<Tensor<2>> for EmbeddingTable {
    fn from(whole: Tensor<2>) -> Self {
        Self::of(vec![whole.into()])
    }
}

impl EmbeddingTable {
    /// Joins pieces, one below the other.
    ///
    /// # Panics
    /// There is no piece.
    pub fn of(pieces: Vec<Base>) -> Self {
        assert!(!pieces.is_empty(), "a table has rows");
        Self { pieces, own: None }
    }

    /// Visits what trains of the table, with names.
    ///
    /// # Panics
    /// The whole table trains, and it is in pieces.
    pub fn visit(&mut self, module: &str, used: Use, visit: &mut dyn FnMut(&str, Weight)) {
        let table = if let [whole] = &mut self.pieces[..] {
            whole.dense_mut()
        } else {
            None
        };
        if let Some(own) = &mut self.own {
            own.visit(module, used, table, visit);
        }
    }

    /// Whether the table is packed.
    pub fn is_packed(&self) -> bool {
        self.pieces[0].dense().is_none()
    }

    /// Returns the number of rows and the width.
    pub fn dims(&self) -> [usize; 2] {
        let rows = self.pieces.iter().map(|piece| piece.dims()[0]).sum();
        [rows, self.pieces[0].dims()[1]]
    }

    /// Returns the whole matrix; `None` where it is in pieces, or packed.
    pub fn whole(&self) -> Option<&Tensor<2>> {
        if let [whole] = &self.pieces[..] {
            whole.dense()
        } else {
            None
        }
    }

    /// Returns the whole matrix, to be changed; `None` where it is in pieces, or packed.
    pub fn whole_mut(&mut self) -> Option<&mut Tensor<2>> {
        if let [whole] = &mut self.pieces[..] {
            whole.dense_mut()
        } else {
            None
        }
    }

    /// Returns each piece with the index of its first row.
    fn placed(&self) -> impl Iterator<Item = (usize, &Base)> {
        let rows = self.pieces[0].dims()[0];
        self.pieces
            .iter()
            .enumerate()
            .map(move |(index, piece)| (index * rows, piece))
    }

    /// Looks up rows of the table, [n, width], by their indices, [n], which may be on another
    /// device: the rows come to where the indices are.
    ///
    /// # Panics
    /// The table is packed.
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let rows = self.select_frozen(ids.clone());
        match &self.own {
            None | Some(TrainableTable::Whole | TrainableTable::Tied) => rows,
            Some(TrainableTable::Lora(lora)) => {
                rows.cast(DType::F32) + trainable_table::looked_up(lora, ids)
            }
            Some(TrainableTable::Rows(rows_of_own) | TrainableTable::Shared(rows_of_own)) => {
                rows_of_own.over_rows(rows, ids)
            }
        }
    }

    /// Returns the gradients of what trains of the table, given that of looked-up rows, [n, width];
    /// rows of `padding` give none.
    pub fn of_rows(
        &self,
        ids: Tensor<1, Int>,
        of_rows: Tensor<2>,
        padding: Option<u32>,
    ) -> Vec<Tensor<2>> {
        let of_rows = of_rows.cast(DType::F32);
        match &self.own {
            Some(TrainableTable::Whole | TrainableTable::Tied) => {
                let zeros = Tensor::<2>::zeros(self.dims(), (&of_rows.device(), DType::F32));
                let of_rows = trainable_table::without(padding, &ids, of_rows);
                vec![zeros.select_assign(0, ids, of_rows, IndexingUpdateOp::Add)]
            }
            Some(TrainableTable::Lora(lora)) => {
                trainable_table::of_looked_up(lora, ids, of_rows, padding)
            }
            Some(TrainableTable::Rows(rows) | TrainableTable::Shared(rows)) => {
                let of_rows = trainable_table::without(padding, &ids, of_rows);
                vec![rows.of_rows(ids, of_rows)]
            }
            None => Vec::new(),
        }
    }

    /// Looks up rows without the adapter.
    fn select_frozen(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let (home, asked) = (self.dense(0).device(), ids.device());
        if home == asked {
            return self.select_here(ids);
        }
        let rows = self.select_here(Tensor::from_data(ids.into_data(), &home));
        let numbers = rows.dtype();
        Tensor::from_data(rows.into_data(), (&asked, numbers))
    }

    fn dense(&self, index: usize) -> &Tensor<2> {
        self.pieces[index]
            .dense()
            .expect("rows are looked up in a table of numbers")
    }

    fn select_here(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        if let Some(whole) = self.whole() {
            return whole.clone().select(0, ids);
        }
        let rows = self.placed().enumerate().map(|(index, (first, _))| {
            let piece = self.dense(index);
            let [count, width] = piece.dims();
            let place = ids.clone().sub_scalar(first as u32);
            let is_here = place
                .clone()
                .greater_equal_elem(0)
                .bool_and(place.clone().lower_elem(count as u32));
            let rows = piece.clone().select(0, place.clamp(0, count as u32 - 1)); // [n, width]
            (
                rows,
                is_here.unsqueeze_dim::<2>(1).expand([ids.dims()[0], width]),
            )
        });
        let joined = rows.reduce(|(rows, is_there), (others, is_here)| {
            (rows.mask_where(is_here, others), is_there)
        });
        joined.expect("a table has rows").0
    }

    /// Returns the logits of rows, [n, vocabulary] in f32, given their hidden states, [n, width].
    /// The mask is the dropout of the adapter's input.
    pub fn logits(&self, hidden: &Tensor<2>, mask: Option<&Mask>) -> Tensor<2> {
        let logits = self.frozen_logits(hidden);
        match &self.own {
            None | Some(TrainableTable::Whole | TrainableTable::Tied) => logits,
            Some(TrainableTable::Lora(lora)) => {
                logits + trainable_table::projected(lora, hidden, mask)
            }
            Some(TrainableTable::Rows(own) | TrainableTable::Shared(own)) => {
                own.over_logits(logits, hidden.clone())
            }
        }
    }

    /// Returns the gradient of the hidden states, [n, width], and those of what trains of the
    /// table, given that of the logits, [n, vocabulary] in the type of the hidden states.
    pub fn backward(
        &self,
        hidden: &Tensor<2>,
        of_logits: Tensor<2>,
        mask: Option<&Mask>,
    ) -> (Tensor<2>, Vec<Tensor<2>>) {
        let of_weight = |of_logits: Tensor<2>| {
            times(
                of_logits.transpose(),
                Base::Dense(hidden.clone()),
                DType::F32,
            )
        };
        match &self.own {
            Some(TrainableTable::Whole | TrainableTable::Tied) => {
                (self.hidden_gradient(&of_logits), vec![of_weight(of_logits)])
            }
            None => (self.hidden_gradient(&of_logits), Vec::new()),
            Some(TrainableTable::Lora(lora)) => {
                let (of_hidden, of_own) =
                    trainable_table::of_projected(lora, hidden, &of_logits, mask);
                (self.hidden_gradient(&of_logits) + of_hidden, of_own)
            }
            Some(TrainableTable::Rows(own) | TrainableTable::Shared(own)) => {
                let [of_base, of_own] = own.split(of_logits);
                let through = times(
                    of_own.clone(),
                    Base::Dense(own.rows.clone()),
                    hidden.dtype(),
                );
                (
                    self.hidden_gradient(&of_base) + through,
                    vec![of_weight(of_own)],
                )
            }
        }
    }

    fn frozen_logits(&self, hidden: &Tensor<2>) -> Tensor<2> {
        let logits = |piece: &Base| times(hidden.clone(), piece.clone().transposed(), DType::F32);
        if let [whole] = &self.pieces[..] {
            logits(whole)
        } else {
            Tensor::cat(self.pieces.iter().map(logits).collect(), 1)
        }
    }

    /// Returns the gradient of the hidden states, [n, width], through the frozen table, given that
    /// of the logits, [n, vocabulary].
    fn hidden_gradient(&self, of_logits: &Tensor<2>) -> Tensor<2> {
        let through = |(first, piece): (usize, &Base)| {
            let of_piece = if self.pieces.len() == 1 {
                of_logits.clone()
            } else {
                of_logits.clone().narrow(1, first, piece.dims()[0])
            };
            times(of_piece, piece.clone(), of_logits.dtype())
        };
        self.placed()
            .map(through)
            .reduce(|sum, of_piece| sum + of_piece)
            .expect("a table has rows")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::lora::{Lora, Portion};
    use super::super::trainable_table::TokenRows;
    use super::*;

    /// Rows of padding follow torch's `padding_idx`. B of an adapter is multiplied by the row of A,
    /// and gets its gradient.
    #[test]
    fn rows_of_padding_get_no_gradient() {
        let device = Device::flex();
        let numbers = |rows: usize, columns: usize| {
            let numbers = (0..rows * columns)
                .map(|place| (place as f32 * 0.7).sin())
                .collect();
            Tensor::<2>::from_data(TensorData::new(numbers, [rows, columns]), &device)
        };
        let (ids, of_rows) = (
            Tensor::<1, Int>::from_data([2, 0, 2, 4], &device),
            numbers(4, 3),
        );
        let gradients = |own: Option<TrainableTable>, padding| {
            let table = EmbeddingTable {
                own,
                ..EmbeddingTable::from(numbers(5, 3))
            };
            let gradients = table
                .of_rows(ids.clone(), of_rows.clone(), padding)
                .into_iter();
            gradients
                .map(|gradient| gradient.into_data().iter().collect::<Vec<f32>>())
                .collect::<Vec<_>>()
        };
        let lora = || {
            TrainableTable::Lora(Lora {
                a: numbers(5, 2),
                b: numbers(2, 3),
                scale: 0.5,
                portion: Portion::Whole,
                vector: None,
                initial: None,
            })
        };
        let rows = || TrainableTable::Rows(TokenRows::new(numbers(2, 3), &[4, 2], 5));
        for (own, width, place) in [
            (
                &(|| TrainableTable::Whole) as &dyn Fn() -> TrainableTable,
                3,
                2,
            ),
            (&lora, 2, 2),
            (&rows, 3, 1),
        ] {
            let (mut with, without) = (
                gradients(Some(own()), Some(2)),
                gradients(Some(own()), None),
            );
            let row = place * width..(place + 1) * width;
            assert!(with[0][row.clone()].iter().all(|number| *number == 0.0));
            assert!(without[0][row.clone()].iter().all(|number| *number != 0.0));
            with[0][row.clone()].copy_from_slice(&without[0][row]);
            assert_eq!(with, without, "nothing else differs");
        }
    }

    #[test]
    fn a_table_in_pieces_is_the_whole_one() {
        let device = Device::flex();
        let numbers = |rows: usize, columns: usize, step: f32| {
            let numbers = (0..rows * columns)
                .map(|place| (place as f32 * step).sin())
                .collect();
            Tensor::<2>::from_data(TensorData::new(numbers, [rows, columns]), &device)
        };
        let (table, hidden, of_logits) =
            (numbers(11, 3, 0.7), numbers(5, 3, 1.3), numbers(5, 11, 0.3));
        let ids = Tensor::<1, Int>::from_data([10, 0, 4, 3, 7, 8, 4], &device);
        let whole = EmbeddingTable::from(table.clone());
        for rows in [1, 4, 10] {
            let pieces = (0..11)
                .step_by(rows)
                .map(|first| table.clone().narrow(0, first, rows.min(11 - first)).into());
            let split = EmbeddingTable::of(pieces.collect());
            assert!(split.whole().is_none());
            split
                .select(ids.clone())
                .into_data()
                .assert_eq(&whole.select(ids.clone()).into_data(), true);
            split
                .logits(&hidden, None)
                .into_data()
                .assert_eq(&whole.logits(&hidden, None).into_data(), true);
            let difference = split.hidden_gradient(&of_logits) - whole.hidden_gradient(&of_logits);
            assert!(
                difference.abs().max().into_scalar::<f32>() < 1e-6,
                "{rows} rows a piece"
            );
        }
    }
}
