//! Merges adapters into a frozen weight, row by row in the checkpoint's orientation: W + Σ wᵢ sᵢ Bᵢ
//! Aᵢ, with s = alpha / r or alpha / sqrt(r), Hu et al. 2021, arXiv:2106.09685.
//!
//! Magnitudes then scale the rows, and biases are added to the bias. Tables that were trained
//! whole, and rows of them, replace the base's.

mod delta;
mod replacement;
mod source;

pub use delta::Delta;
pub use replacement::Replacement;
pub use source::MergeSource;
