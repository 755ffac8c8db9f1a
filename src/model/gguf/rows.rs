//! Rows of a tensor of a GGUF file, as numbers.

use crate::files::Float;
use crate::files::gguf::{Gguf, GgufTensor, TensorKind};
use crate::quant::BlockFormat;

/// How a tensor stores its numbers, as far as it is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Each by itself.
    Numbers(Float),
    /// In blocks.
    Blocks(BlockFormat),
}

impl Stored {
    /// Returns the way of a kind of GGML; `None` if it is none that is known.
    pub fn of(kind: TensorKind) -> Option<Self> {
        match kind.id() {
            0 => Some(Self::Numbers(Float::F32)),
            1 => Some(Self::Numbers(Float::F16)),
            30 => Some(Self::Numbers(Float::Bf16)),
            id => BlockFormat::of_ggml(id).map(Self::Blocks),
        }
    }

    /// Writes the numbers of whole rows.
    pub fn decode(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::Numbers(float) => float.decode(bytes, numbers),
            Self::Blocks(format) => format.unpack(bytes, numbers),
        }
    }
}

/// Returns all numbers of a small tensor that is not in blocks.
pub(super) fn plain_numbers(file: &Gguf, tensor: &GgufTensor) -> Option<Vec<f32>> {
    let stored = Stored::of(tensor.kind).filter(|stored| matches!(stored, Stored::Numbers(_)))?;
    let mut numbers = vec![0.0; tensor.rows() * tensor.width()];
    stored.decode(file.row_bytes(tensor, 0..tensor.rows()), &mut numbers);
    Some(numbers)
}
