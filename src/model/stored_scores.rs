//! What a checkpoint has of a head that scores texts or words, beside the model itself.

use std::collections::BTreeMap;

/// Tensors of heads by their names, with their shapes and numbers.
#[derive(Debug, Clone, Default)]
pub struct StoredScores {
    pub(super) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl StoredScores {
    /// Returns the numbers of a tensor, if there is one of this shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Option<&[f32]> {
        let (found, numbers) = self.tensors.get(name)?;
        (found == shape).then_some(&numbers[..])
    }
}
