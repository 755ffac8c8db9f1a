//! A Hugging Face folder to a [`Decoder`]: strict about names and shapes; beside the model a few
//! megabytes are in memory.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::assemble::assemble;
use super::changed::{Change, Changed};
use super::config::Config;
use super::decoder::Decoder;
use super::spec::DecoderSpec;
use super::weights::Weights;
use super::{Error, Storage, families};
use crate::device::{self, Halves};
use crate::quant::Form;
use crate::report::Reporter;

/// A base model's folder whose config.json has been read; its weights are not.
#[derive(Debug)]
pub struct Folder {
    pub(super) path: PathBuf,
    /// What the decoder is.
    pub spec: DecoderSpec,
}

impl Folder {
    /// Reads config.json.
    ///
    /// # Errors
    /// The folder or file is missing, or describes a model that is not known.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let spec = families::spec(&Config::open(path)?)?;
        Ok(Self { path: path.to_owned(), spec })
    }

    /// Checks names, shapes and sizes of the weights by the headers of their files.
    ///
    /// # Errors
    /// Tensors are missing, left over or of another shape (all of them are listed), or a file is damaged.
    pub fn check_weights(&self) -> Result<(), Error> {
        Weights::open(&self.path, &self.spec).map(drop)
    }

    /// Loads the weights, kept as asked for, where `auto` changes no number: on a GPU it is f32, and [`Folder::kept_in`] tells what a run
    /// takes there. What the folder has packed stays packed.
    ///
    /// # Errors
    /// Tensors are missing, left over or of another shape (all of them are listed), a number does not fit into the dtype, or a file is
    /// damaged.
    pub fn load(&self, storage: impl Into<Storage>, device: &Device, report: Reporter) -> Result<Decoder, Error> {
        let weights = Weights::open(&self.path, &self.spec)?;
        let halves = if device::is_cpu(device) { Halves::Widened } else { Halves::Computed(None) };
        let storage = weights.kept_in(storage.into(), &self.spec, halves)?;
        assemble(&weights, self.spec.clone(), storage, device, report)
    }

    /// [`Folder::load`] with projections that are changed before they are kept or packed; those that the folder has packed are not.
    ///
    /// # Errors
    /// As of [`Folder::load`].
    pub fn load_changed(
        &self,
        storage: impl Into<Storage>,
        device: &Device,
        change: &mut dyn Change,
        report: Reporter,
    ) -> Result<Decoder, Error> {
        let weights = Weights::open(&self.path, &self.spec)?;
        let halves = if device::is_cpu(device) { Halves::Widened } else { Halves::Computed(None) };
        let storage = weights.kept_in(storage.into(), &self.spec, halves)?;
        let changed = Changed { source: &weights, linears: self.spec.projections(), change: RefCell::new(change) };
        assemble(&changed, self.spec.clone(), storage, device, report)
    }

    /// The form in which the files have projections packed; `None` where they do not.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn stored_form(&self) -> Result<Option<Form>, Error> {
        Ok(Weights::open(&self.path, &self.spec)?.form(&self.spec))
    }

    /// Whether the files have projections, or stacks of them, as something else than numbers.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn is_packed(&self) -> Result<bool, Error> {
        let weights = Weights::open(&self.path, &self.spec)?;
        Ok(weights.form(&self.spec).is_some() || self.spec.tensors().iter().any(|(name, _)| weights.is_mxfp4(name)))
    }

    /// How [`Folder::load`] keeps weights on a device where this is asked for: never in `auto`, and packed where the folder has them so.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn kept_in(&self, storage: impl Into<Storage>, halves: Halves) -> Result<Storage, Error> {
        Weights::open(&self.path, &self.spec)?.kept_in(storage.into(), &self.spec, halves)
    }
}
