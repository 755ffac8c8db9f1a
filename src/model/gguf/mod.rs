//! Models as llama.cpp has them: its architectures, keys and names of tensors, in both directions.
//! Export writes a decoder with them, and a GGUF file is read with them as the folder of a model.

mod architecture;
mod carried;
mod change;
mod config;
mod described;
mod differences;
mod file_rows;
mod keys;
mod names;
mod rotation;
mod rows;
mod sources;
mod tensor_type;
mod uneven;
mod value;
mod weights;

pub(crate) use architecture::Architecture;
pub(crate) use carried::PlacedTensor;
pub(crate) use change::Change;
pub(crate) use config::architecture_of;
pub(crate) use file_rows::{FileRows, file_rows};
pub(crate) use keys::{differences, divisors, hyperparameters};
pub(crate) use names::{GgufModule, ROUTER, places};
pub(crate) use tensor_type::TensorType;
pub(crate) use value::Value;

pub use described::{base_folder, base_folder_in, gguf_paths, is_base, user_path};
pub(in crate::model) use weights::GgufWeights;

use super::DecoderSpec;
use crate::fault::{Exit, Explain};

/// A decoder that no architecture of llama.cpp is known to compute.
#[derive(Debug, thiserror::Error)]
pub enum ArchitectureError {
    /// Each of them computes something else.
    #[error("{has}: llama.cpp is not known to compute that, its `{name}` takes {takes}")]
    NotKnown {
        /// The model's features.
        has: String,
        /// The nearest architecture.
        name: &'static str,
        /// The features of that architecture.
        takes: String,
    },
    /// The model has no layers.
    #[error("a model without layers: every architecture of llama.cpp has some")]
    NoLayers,
}

impl Explain for ArchitectureError {
    fn exit(&self) -> Exit {
        Exit::Input
    }
}

/// Returns the place of a tensor that is neither a linear map nor a norm of the stream.
pub(crate) fn own_place(name: &str, shape: &[usize], spec: &DecoderSpec) -> Option<PlacedTensor> {
    PlacedTensor::of(name, shape, spec).or_else(|| uneven::scalar(name, spec))
}
