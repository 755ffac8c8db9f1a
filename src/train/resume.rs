//! Resumes a run from a checkpoint. The latest checkpoint is never written down: it is the one with
//! the highest step whose manifest holds.

use std::path::{Path, PathBuf};

use super::TrainError;
use super::checkpoint::{OPTIMIZER, RunFolder, STATE, checkpoints_of, name};
use super::optimizer::{Optimizer, OptimizerConfig};
use super::state::State;
use crate::adapter::{LoraConfig, Numbers, peft};
use crate::files::safetensors::Archive;
use crate::files::{Unproven, mirror, read_text, unproven, verify_manifest};
use crate::model::{Decoder, LinearSpec};
use crate::report::{Event, Reporter};

/// A checkpoint that is whole.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// The state of the run.
    pub state: State,
}

/// The point at which a loop starts.
#[derive(Debug)]
pub struct Start {
    /// The state of the run so far.
    pub state: State,
    /// The optimizer with its state.
    pub optimizer: Optimizer,
}

impl Checkpoint {
    /// Finds the checkpoint with the highest step that is whole; newer ones that are not are
    /// reported as notes.
    ///
    /// # Errors
    /// A checkpoint cannot be read, so that it is not known whether it is whole; or there are
    /// checkpoints and none is whole.
    pub fn latest(run: &Path, report: Reporter) -> Result<Option<Self>, TrainError> {
        let found = checkpoints_of(run)?;
        for (step, path) in &found {
            match Self::open(path, *step) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(Unproven::File(error)) => return Err(error.into()),
                Err(reason) => report(Event::Note(format!(
                    "`{}` is passed over: {reason}",
                    path.display()
                ))),
            }
        }
        if found.is_empty() {
            Ok(None)
        } else {
            Err(TrainError::NoneWhole {
                run: run.to_owned(),
                checkpoints: found.len(),
            })
        }
    }

    /// Returns the folder of the newest checkpoint of a run, whole or not.
    pub fn newest_path(run: &Path) -> Option<PathBuf> {
        Some(checkpoints_of(run).ok()?.into_iter().next()?.1)
    }

    /// Whether a folder is a checkpoint of a run.
    pub fn is_one(folder: &Path) -> bool {
        folder.join(STATE).exists() && folder.join(OPTIMIZER).exists()
    }

    fn open(path: &Path, step: u64) -> Result<Self, Unproven> {
        verify_manifest(path)?;
        let state = State::parse(&read_text(&path.join(STATE)).map_err(unproven)?)
            .map_err(Unproven::Differs)?;
        if state.step != step {
            return Err(Unproven::Differs(format!(
                "its state.json is of step {}",
                state.step
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            state,
        })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder of the model, where all of its weights train.
    pub fn model(&self) -> PathBuf {
        self.path.join(RunFolder::MODEL)
    }

    /// Reads the adapter's numbers, for a model with these modules.
    ///
    /// # Errors
    /// The numbers do not belong to this adapter on this model.
    pub fn numbers(
        &self,
        config: &LoraConfig,
        modules: &[LinearSpec],
    ) -> Result<Numbers, TrainError> {
        Ok(peft::read_numbers(
            &self.path.join(RunFolder::ADAPTER),
            config,
            modules,
        )?)
    }

    /// Returns the point at which the loop goes on; `decoder` has the weights of this checkpoint.
    ///
    /// # Errors
    /// The optimizer's state does not belong to the weights that train.
    pub fn start(self, optimizer: OptimizerConfig, decoder: &Decoder) -> Result<Start, TrainError> {
        let archive = Archive::open(&self.path.join(OPTIMIZER))?;
        let optimizer = Optimizer::read(optimizer, decoder, &self.state, &archive)?;
        Ok(Start {
            optimizer,
            state: self.state,
        })
    }

    /// Restores the run's product of the best step, should it be missing, damaged or of a later
    /// step. Does nothing where the best step has no whole checkpoint.
    ///
    /// # Errors
    /// The product cannot be written.
    pub fn restore_product(&self, run: &Path) -> Result<(), TrainError> {
        let Some(best) = self.state.best_step else {
            return Ok(());
        };
        let folder = run.join(RunFolder::CHECKPOINTS).join(name(best));
        if verify_manifest(&folder).is_err() {
            return Ok(());
        }
        let Some(product) = RunFolder::product_in(&folder) else {
            return Ok(());
        };
        let name = product.file_name().expect("a folder in a folder");
        Ok(mirror(&product, &run.join(name))?)
    }
}

impl Start {
    /// Returns the first step of a run.
    pub fn fresh(optimizer: OptimizerConfig, decoder: &Decoder) -> Self {
        Self {
            state: State::start(),
            optimizer: Optimizer::new(optimizer, decoder),
        }
    }
}
