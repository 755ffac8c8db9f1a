//! Numbers of small tensors of a GGUF file.

use super::tensor_type::TensorType;
use crate::files::gguf::{Gguf, GgufTensor};

/// Returns all numbers of a small tensor that is not in blocks.
pub(super) fn plain_numbers(file: &Gguf, tensor: &GgufTensor) -> Option<Vec<f32>> {
    let stored = TensorType::of_ggml(tensor.kind.id())?;
    stored.float()?;
    let mut numbers = vec![0.0; tensor.rows() * tensor.width()];
    stored.decode(file.row_bytes(tensor, 0..tensor.rows()), &mut numbers);
    Some(numbers)
}
