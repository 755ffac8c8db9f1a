//! A merge request, and the check that the adapters were trained on its base.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{GgufNumbers, MergeError, name_of};
use crate::export::card::Trained;
use crate::files::{Float, Hash};
use crate::quant::QuantFormat;
use crate::report::{Event, Reporter};

/// A merge to be made.
#[derive(Debug, Clone)]
pub struct MergeRequest {
    /// The base's folder.
    pub base: PathBuf,
    /// The adapters. Each is added to the base as it is.
    pub adapters: Vec<Addend>,
    /// The folder of the merged model.
    pub out: PathBuf,
    /// The type of all numbers; `None` for the base's, tensor by tensor.
    pub float: Option<Float>,
    /// Handling of a base that is not the one an adapter was trained on.
    pub other_base: OtherBase,
    /// The numbers that adapters are added to.
    pub onto: Onto,
    /// Whether to measure the loss from rounding the sums to `Q8_0`:
    /// [`Tally::rounding_in`](super::Tally::rounding_in).
    pub counts_q8_0: bool,
    /// Whether a GGUF base becomes a GGUF file again; else its numbers become safetensors.
    pub keeps_gguf: bool,
    /// The type of the tensors of such a file that adapters change.
    pub gguf: GgufNumbers,
}

/// The numbers of a base that adapters are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// Those of its files; quantized ones are dequantized.
    Stored,
    /// Those that remain after the projections are quantized.
    Unpacked {
        /// The quantization.
        form: QuantFormat,
        /// Whether an untied head is quantized too.
        packs_head: bool,
    },
}

/// An adapter of a merge.
#[derive(Debug, Clone)]
pub struct Addend {
    /// Its PEFT folder.
    pub folder: PathBuf,
    /// Its weight: the factor of what it adds.
    pub weight: f64,
    /// The base that it was trained on, if its run says so.
    pub trained_on: Option<TrainedOn>,
}

/// The files of the base on which an adapter was trained.
#[derive(Debug, Clone)]
pub struct TrainedOn {
    /// The lock of the adapter's run.
    pub lock: PathBuf,
    /// blake3 hashes of the weights, by file name.
    pub weights: BTreeMap<String, String>,
    /// The blake3 hash of `config.json`.
    pub config: Option<String>,
    /// The run, for the card.
    pub run: Trained,
}

/// Handling of a base that is not the one an adapter was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherBase {
    /// Refuse it.
    Refuse,
    /// Report it and continue.
    Note,
    /// Do nothing: the base was compared before it was dequantized.
    Compared,
}

impl MergeRequest {
    /// Compares a file of the base with the one that each adapter was trained on.
    pub(super) fn check(
        &self,
        file: &Path,
        hash: Hash,
        report: Reporter,
    ) -> Result<(), MergeError> {
        let (name, found) = (name_of(file), hash.to_string());
        for (addend, trained_on) in self.known() {
            let expected = if name == "config.json" {
                trained_on.config.as_ref()
            } else {
                trained_on.weights.get(&name)
            };
            if let Some(expected) = expected.filter(|expected| **expected != found) {
                let (file, lock) = (file.display(), trained_on.lock.display());
                let adapter = addend.folder.display();
                let message = format!(
                    "`{file}` is not what adapter `{adapter}` was trained on: its blake3 is \
                    {found}, `{lock}` has {expected}"
                );
                self.differs(message, report)?;
            }
        }
        Ok(())
    }

    /// Compares the names of the base's files with those that each adapter was trained on.
    pub(super) fn check_files(
        &self,
        files: &[PathBuf],
        report: Reporter,
    ) -> Result<(), MergeError> {
        let quoted = |names: &mut dyn Iterator<Item = &String>| {
            names
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let found: Vec<String> = files.iter().map(|path| name_of(path)).collect();
        for (addend, trained_on) in self
            .known()
            .filter(|(_, known)| !known.weights.keys().eq(&found))
        {
            let message = format!(
                "the weights of `{}` are {}, adapter `{}` was trained on {} according to `{}`",
                self.base.display(),
                quoted(&mut found.iter()),
                addend.folder.display(),
                quoted(&mut trained_on.weights.keys()),
                trained_on.lock.display(),
            );
            self.differs(message, report)?;
        }
        Ok(())
    }

    fn known(&self) -> impl Iterator<Item = (&Addend, &TrainedOn)> {
        self.adapters
            .iter()
            .filter_map(|addend| Some((addend, addend.trained_on.as_ref()?)))
    }

    fn differs(&self, message: String, report: Reporter) -> Result<(), MergeError> {
        match self.other_base {
            OtherBase::Refuse => Err(MergeError::OtherBase { message }),
            OtherBase::Compared => Ok(()),
            OtherBase::Note => {
                report(Event::Note(format!(
                    "{message}; going on because of `--force`"
                )));
                Ok(())
            }
        }
    }
}
