//! The open weights of a base: safetensors files, or GGUF files.

use super::assemble::WeightSource;
use super::gguf::{GgufWeights, gguf_paths};
use super::spec::DecoderSpec;
use super::weights::Weights;
use super::{ModelError, Storage};
use crate::device::HalfPrecision;
use crate::quant::QuantFormat;

/// The weights of a base, with their files open.
#[derive(Debug)]
pub(super) enum Opened {
    /// Safetensors files.
    Shards(Weights),
    /// GGUF files.
    Gguf(GgufWeights),
}

impl Opened {
    /// Opens the weights of a folder and checks names, shapes and sizes.
    pub fn open(folder: &std::path::Path, spec: &DecoderSpec) -> Result<Self, ModelError> {
        match gguf_paths(folder)?.as_deref() {
            Some([first, ..]) => Ok(Self::Gguf(GgufWeights::open(folder, first, spec)?)),
            _ => Ok(Self::Shards(Weights::open(folder, spec)?)),
        }
    }

    /// Returns the source of numbers.
    pub fn source(&self) -> &dyn WeightSource {
        match self {
            Self::Shards(weights) => weights,
            Self::Gguf(weights) => weights,
        }
    }

    /// Returns the format of packed projections.
    pub fn form(&self, spec: &DecoderSpec) -> Option<QuantFormat> {
        match self {
            Self::Shards(weights) => weights.form(spec),
            Self::Gguf(weights) => weights.form(spec),
        }
    }

    /// Returns the storage format of the model, given what is asked for.
    pub fn kept_in(
        &self,
        asked: Storage,
        spec: &DecoderSpec,
        halves: HalfPrecision,
    ) -> Result<Storage, ModelError> {
        match self {
            Self::Shards(weights) => weights.kept_in(asked, spec, halves),
            Self::Gguf(weights) => Ok(weights.kept_in(asked, spec, halves)),
        }
    }

    /// Whether the files are no plain numbers in safetensors.
    pub fn is_packed(&self, spec: &DecoderSpec) -> bool {
        match self {
            Self::Shards(weights) => {
                weights.form(spec).is_some()
                    || spec
                        .tensors()
                        .iter()
                        .any(|(name, _)| weights.is_mxfp4(name))
            }
            Self::Gguf(_) => true,
        }
    }
}
