//! Saves a [`Decoder`] as a Hugging Face folder.

use std::path::{Path, PathBuf};

use super::{Decoder, ModelError};
use crate::files::safetensors::write_f32_lazily;
use crate::files::{create_folder, write_all};

/// The file of weights.
const WEIGHTS: &str = "model.safetensors";

impl Decoder {
    /// Writes all weights, all of which train, in f32, and the accompanying files: see
    /// [`super::CompanionFiles::read`].
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, beside: &[(PathBuf, Vec<u8>)]) -> Result<(), ModelError> {
        create_folder(folder)?;
        write_all(folder, beside)?;
        let tensors = self.named_lazily(&self.numbers());
        Ok(write_f32_lazily(
            &folder.join(WEIGHTS),
            tensors,
            &[("format", "pt".to_owned())],
        )?)
    }
}
