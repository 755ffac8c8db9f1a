//! Words of a recipe as values of options.

use crate::terms::{Device, ModelDtype, Quantization, Term};

/// Parses a device as a recipe names it.
pub(super) fn parse_device(word: &str) -> Result<Device, String> {
    Device::parse(word)
        .ok_or_else(|| "expected `auto`, `cpu`, `wgpu`, `wgpu:N`, `cuda` or `cuda:N`".to_owned())
}

/// Parses a type of numbers as a recipe names it.
pub(super) fn parse_dtype(word: &str) -> Result<ModelDtype, String> {
    ModelDtype::parse(word)
        .ok_or_else(|| "expected `auto`, `float32`, `bfloat16` or `float16`".to_owned())
}

/// Parses a quantization as a recipe names it.
pub(super) fn parse_quantization(word: &str) -> Result<Quantization, String> {
    let known = Quantization::parse(word).filter(|known| *known != Quantization::Gguf);
    known.ok_or_else(|| "expected `none`, `nf4`, `fp4` or `int8`".to_owned())
}
