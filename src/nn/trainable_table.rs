//! What trains of a table of the vocabulary: all of its numbers, low-rank matrices beside them, or
//! some rows in place of them. PEFT has these as `modules_to_save`, adapters of the embedding and
//! the head, and `trainable_token_indices`.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

use super::lora::Lora;
use super::weight::Weight;
use crate::ops::{Base, Mask, dropout, times};

/// Trained part of a table, in addition to a frozen base.
#[derive(Debug, Clone)]
pub enum TrainableTable {
    /// All numbers: a copy of the base's, or the base's own where every weight trains.
    Whole,
    /// All numbers of the embedding, in a head that is tied to it.
    Tied,
    /// Low-rank matrices. For an embedding A is [vocabulary, r] and B [r, width]; for a head A is
    /// [width, r] and B [r, vocabulary].
    Lora(Lora),
    /// Some rows.
    Rows(TokenRows),
    /// The trained rows of the embedding, in a head that is tied to it.
    Shared(TokenRows),
}

/// The use of a table. It decides how PEFT names and lays out its low-rank matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The table looks up rows.
    Embedding,
    /// The table gives logits.
    Head,
}

impl TrainableTable {
    /// Visits what trains, in order, with names; `table` is the table's matrix.
    pub fn visit<'a>(
        &'a mut self,
        module: &str,
        used: Use,
        table: Option<&'a mut Tensor<2>>,
        visit: &mut dyn FnMut(&str, Weight),
    ) {
        match (self, used) {
            (Self::Whole, _) => {
                let table = table.expect("a table that trains is whole");
                visit(&format!("{module}.weight"), Weight::Matrix(table));
            }
            (Self::Lora(lora), Use::Embedding) => {
                visit(
                    &format!("{module}.lora_embedding_A"),
                    Weight::Turned(&mut lora.a),
                );
                visit(
                    &format!("{module}.lora_embedding_B"),
                    Weight::LoraB(&mut lora.b),
                );
            }
            (Self::Lora(lora), Use::Head) => {
                visit(
                    &format!("{module}.lora_A.weight"),
                    Weight::Turned(&mut lora.a),
                );
                visit(
                    &format!("{module}.lora_B.weight"),
                    Weight::LoraB(&mut lora.b),
                );
            }
            (Self::Rows(own), _) => {
                visit(
                    &format!("{module}.token_adapter.trainable_tokens_delta"),
                    Weight::Matrix(&mut own.rows),
                );
            }
            (Self::Tied | Self::Shared(_), _) => {}
        }
    }
}

/// Rows that replace those of some tokens.
#[derive(Debug, Clone)]
pub struct TokenRows {
    /// The rows, f32, [n, width].
    pub rows: Tensor<2>,
    /// The tokens, [n].
    tokens: Tensor<1, Int>,
    /// The row of every token of the vocabulary, or n where it has none, [vocabulary].
    places: Tensor<1, Int>,
}

impl TokenRows {
    /// Makes the rows of these tokens, each token once and below `vocabulary`.
    pub fn new(rows: Tensor<2>, tokens: &[u32], vocabulary: usize) -> Self {
        let device = rows.device();
        let mut places = vec![(tokens.len() as u32).cast_signed(); vocabulary];
        for (row, token) in tokens.iter().enumerate() {
            places[*token as usize] = (row as u32).cast_signed();
        }
        let tokens: Vec<i32> = tokens.iter().map(|token| token.cast_signed()).collect();
        Self {
            rows,
            tokens: Tensor::from_data(TensorData::from(&tokens[..]), &device),
            places: Tensor::from_data(TensorData::from(&places[..]), &device),
        }
    }

    /// Returns the number of rows.
    pub fn count(&self) -> usize {
        self.rows.dims()[0]
    }

    /// Puts these rows into looked-up rows of a table, [n, width], for `ids`, [n].
    pub fn over_rows(&self, rows: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
        let (shape, last) = (rows.dims(), self.count() as u32 - 1);
        let place = self.places.clone().select(0, ids); // [n]
        let is_own = place
            .clone()
            .lower_equal_elem(last)
            .unsqueeze_dim::<2>(1)
            .expand(shape);
        let own = self.rows.clone().select(0, place.clamp(0, last)); // [n, width]
        rows.cast(DType::F32).mask_where(is_own, own)
    }

    /// Returns their gradient, given that of looked-up rows, [n, width].
    pub fn of_rows(&self, ids: Tensor<1, Int>, of_rows: Tensor<2>) -> Tensor<2> {
        let [count, width] = self.rows.dims();
        // What has no row goes where nobody looks.
        let zeros = Tensor::<2>::zeros([count + 1, width], (&of_rows.device(), DType::F32));
        zeros
            .select_assign(
                0,
                self.places.clone().select(0, ids),
                of_rows,
                IndexingUpdateOp::Add,
            )
            .narrow(0, 0, count)
    }

    /// Puts the logits of these tokens into their columns of `logits`, [n, vocabulary].
    pub fn over_logits(&self, logits: Tensor<2>, hidden: Tensor<2>) -> Tensor<2> {
        // [n, tokens]
        let own = times(
            hidden,
            Base::Dense(self.rows.clone().transpose()),
            DType::F32,
        );
        let difference = own - logits.clone().select(1, self.tokens.clone());
        logits.select_assign(1, self.tokens.clone(), difference, IndexingUpdateOp::Add)
    }

    /// Splits the gradient of logits: into that of the base's columns, with 0 for these tokens, and
    /// that of these tokens, [n, tokens].
    pub fn split(&self, of_logits: Tensor<2>) -> [Tensor<2>; 2] {
        let own = of_logits.clone().select(1, self.tokens.clone());
        [
            of_logits.select_assign(
                1,
                self.tokens.clone(),
                own.clone().neg(),
                IndexingUpdateOp::Add,
            ),
            own,
        ]
    }
}

/// Returns the gradient of looked-up rows, [n, columns], with 0 in those of `padding`.
pub(super) fn without(padding: Option<u32>, ids: &Tensor<1, Int>, of_rows: Tensor<2>) -> Tensor<2> {
    let Some(padding) = padding else {
        return of_rows;
    };
    let is_padding = ids
        .clone()
        .equal_elem(padding)
        .unsqueeze_dim::<2>(1)
        .expand(of_rows.dims());
    of_rows.mask_fill(is_padding, 0.0)
}

/// Returns scale · A B of looked-up rows, [n, width], where A is [vocabulary, r].
pub(super) fn looked_up(lora: &Lora, ids: Tensor<1, Int>) -> Tensor<2> {
    let narrow = lora.a.clone().select(0, ids).mul_scalar(lora.scale); // [n, r]
    times(narrow, Base::Dense(lora.b.clone()), DType::F32)
}

/// Returns the gradients of A and B, given that of the result of [`looked_up`], f32. Rows of
/// `padding` are looked up in A, which gets no gradient from them.
pub(super) fn of_looked_up(
    lora: &Lora,
    ids: Tensor<1, Int>,
    of_rows: Tensor<2>,
    padding: Option<u32>,
) -> Vec<Tensor<2>> {
    let of_rows = of_rows.mul_scalar(lora.scale);
    let narrow = lora.a.clone().select(0, ids.clone()); // [n, r]
    let of_b = times(narrow.transpose(), Base::Dense(of_rows.clone()), DType::F32);
    let of_narrow = times(of_rows, Base::Dense(lora.b.clone().transpose()), DType::F32); // [n, r]
    let of_narrow = without(padding, &ids, of_narrow);
    let zeros = Tensor::<2>::zeros(lora.a.dims(), (&of_narrow.device(), DType::F32));
    vec![
        zeros.select_assign(0, ids, of_narrow, IndexingUpdateOp::Add),
        of_b,
    ]
}

/// Returns scale · drop(h) A B of hidden states, [n, outputs] in f32.
pub(super) fn projected(lora: &Lora, hidden: &Tensor<2>, mask: Option<&Mask>) -> Tensor<2> {
    times(
        narrowed(lora, hidden, mask),
        Base::Dense(lora.b.clone()),
        DType::F32,
    )
}

/// Returns the gradients of the hidden states, A and B, given that of the result of [`projected`],
/// in the type of the hidden states.
pub(super) fn of_projected(
    lora: &Lora,
    hidden: &Tensor<2>,
    of_result: &Tensor<2>,
    mask: Option<&Mask>,
) -> (Tensor<2>, Vec<Tensor<2>>) {
    let computed = hidden.dtype();
    let narrow = narrowed(lora, hidden, mask);
    let of_b = times(
        narrow.transpose(),
        Base::Dense(of_result.clone()),
        DType::F32,
    );
    let of_narrow = times(
        of_result.clone(),
        Base::Dense(lora.b.clone().transpose()),
        computed,
    )
    .mul_scalar(lora.scale); // [n, r]
    let of_a = times(
        dropped(hidden, mask).transpose(),
        Base::Dense(of_narrow.clone()),
        DType::F32,
    );
    let of_hidden = times(of_narrow, Base::Dense(lora.a.clone().transpose()), computed);
    (dropped(&of_hidden, mask), vec![of_a, of_b])
}

/// Returns scale · drop(h) A, [n, r].
fn narrowed(lora: &Lora, hidden: &Tensor<2>, mask: Option<&Mask>) -> Tensor<2> {
    times(
        dropped(hidden, mask),
        Base::Dense(lora.a.clone()),
        hidden.dtype(),
    )
    .mul_scalar(lora.scale)
}

fn dropped(x: &Tensor<2>, mask: Option<&Mask>) -> Tensor<2> {
    mask.map_or_else(|| x.clone(), |mask| dropout(x.clone(), mask))
}
