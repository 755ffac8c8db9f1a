//! Saves a [`Decoder`] as a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::layout::{LinearKind, SCALAR};
use super::{Decoder, ModelError, Slice};
use crate::files::safetensors::{Named, write_f32_lazily};
use crate::files::{create_folder, write_all};

/// The file of weights.
const WEIGHTS: &str = "model.safetensors";

/// The numbers of a tensor, which are put in the file's order only when they are asked for.
type Numbers = Box<dyn FnOnce() -> Vec<f32>>;

impl Decoder {
    /// Writes all weights, all of which train, in f32, and the accompanying files: see
    /// [`super::CompanionFiles::read`].
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, beside: &[(PathBuf, Vec<u8>)]) -> Result<(), ModelError> {
        create_folder(folder)?;
        write_all(folder, beside)?;
        let mut tensors = self.stacked();
        tensors.extend(self.factors());
        Ok(write_f32_lazily(
            &folder.join(WEIGHTS),
            tensors,
            &[("format", "pt".to_owned())],
        )?)
    }

    /// Returns the weights that train, with matrices of a stack as one tensor.
    fn stacked(&self) -> Vec<Named<Numbers>> {
        let slice = |linear: super::LinearSpec| match linear.kind {
            LinearKind::Stacked(slice) => Some((format!("{}.weight", linear.name), slice)),
            LinearKind::Module | LinearKind::Expert => None,
        };
        let slices: BTreeMap<String, Slice> = self
            .spec
            .projections()
            .into_iter()
            .filter_map(slice)
            .collect();
        let mut stacks: BTreeMap<String, (Vec<usize>, Vec<Numbers>)> = BTreeMap::new();
        let mut tensors: Vec<Named<Numbers>> = Vec::new();
        for (name, shape, numbers) in self.named_lazily(&self.numbers()) {
            let numbers: Numbers = Box::new(numbers);
            match slices.get(&name) {
                None => tensors.push((name, shape, numbers)),
                // Matrices come in their order.
                Some(slice) => {
                    let (of_stack, parts) = stacks.entry(slice.tensor.clone()).or_default();
                    *of_stack = [&[slice.count][..], &shape[..]].concat();
                    parts.push(numbers);
                }
            }
        }
        tensors.extend(stacks.into_iter().map(|(name, (shape, parts))| {
            let numbers = move || {
                parts
                    .into_iter()
                    .flat_map(|part| part())
                    .collect::<Vec<_>>()
            };
            (name, shape, Box::new(numbers) as Numbers)
        }));
        tensors
    }

    /// Returns the factors of layers' outputs, which never train.
    fn factors(&self) -> impl Iterator<Item = Named<Numbers>> {
        self.blocks.iter().filter_map(|block| {
            let factor = block.scalar?;
            let name = self.spec.names.in_layer(block.index(), SCALAR);
            Some((name, vec![1], Box::new(move || vec![factor]) as Numbers))
        })
    }
}
