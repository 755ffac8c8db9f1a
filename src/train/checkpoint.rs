//! What a run leaves on disk: its product, the best adapter or model, and checkpoints with
//! everything that the next step depends on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::TrainError;
use super::optimizer::Optimizer;
use super::state::State;
use crate::adapter::{LoraConfig, peft};
use crate::files::{
    self, check_space, files_in, write_all, write_atomic, write_folder_atomic, write_manifest,
};
use crate::model::Decoder;
use crate::report::JsonLines;

/// Names of a checkpoint's files, beside its product and its manifest.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const STATE: &str = "state.json";
/// For what is not weights: configs, state, lock, manifest and the folders themselves.
const SMALL_FILES_BYTES: u64 = 64 << 10;

/// What a run is for.
#[allow(clippy::large_enum_variant, reason = "one a run")]
#[derive(Debug)]
pub enum Product {
    /// A folder in PEFT's format.
    Adapter {
        /// Its config.
        config: LoraConfig,
        /// The base as a reader of the adapter is to find it.
        base: String,
        /// Files of its tokenizer, where that is not the base's.
        beside: Vec<(PathBuf, Vec<u8>)>,
    },
    /// A folder in Hugging Face's format.
    Model {
        /// What goes with its weights: see [`crate::model::CompanionFiles::read`].
        beside: Vec<(PathBuf, Vec<u8>)>,
    },
}

impl Product {
    /// The name of its folder, in a run and in a checkpoint.
    pub fn folder(&self) -> &'static str {
        match self {
            Self::Adapter { .. } => RunFolder::ADAPTER,
            Self::Model { .. } => RunFolder::MODEL,
        }
    }

    /// Bytes of what goes with what trains.
    fn beside_bytes(&self, decoder: &Decoder) -> u64 {
        match self {
            Self::Adapter { beside, .. } => 4 * decoder.initial_numbers() as u64 + bytes_of(beside),
            Self::Model { beside } => bytes_of(beside),
        }
    }

    fn write(&self, folder: &Path, decoder: &Decoder) -> Result<(), TrainError> {
        match self {
            Self::Adapter {
                config,
                base,
                beside,
            } => {
                peft::write(folder, decoder, config, base)?;
                Ok(write_all(folder, beside)?)
            }
            Self::Model { beside } => Ok(decoder.write(folder, beside)?),
        }
    }
}

/// Where a run writes.
#[derive(Debug)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
    /// What it is for.
    pub product: Product,
    /// The run's lock, of which every checkpoint has a copy.
    pub lock: String,
    /// What happened at each step.
    pub metrics: JsonLines,
    /// What was said to each prompt, where the recipe has prompts.
    pub samples: Option<JsonLines>,
}

impl RunFolder {
    /// Folder of the adapter that the run is for.
    pub const ADAPTER: &str = "adapter";
    /// Folder of the model that the run is for.
    pub const MODEL: &str = "model";
    /// Folder of the checkpoints.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// One line a step and an evaluation.
    pub const METRICS: &str = "metrics.jsonl";
    /// One line an answer to a prompt.
    pub const SAMPLES: &str = "samples.jsonl";
    /// One line for each time that `rankine eval` scored the run.
    pub const EVALUATIONS: &str = "eval.jsonl";
    /// Folder of the event files for TensorBoard.
    pub const TENSORBOARD: &str = "tensorboard";
    /// Folder of the tokens of its data, where the recipe keeps them with the run.
    pub const CACHE: &str = "cache";
    /// What the run depends on; every run has it before anything else.
    pub const LOCK: &str = "recipe.lock.yaml";
    /// What was trained on what.
    pub const CARD: &str = "README.md";
    /// What the run came to, written when it is over.
    pub const RESULT: &str = "result.json";
    /// The page that `rankine report` makes of the run.
    pub const PAGE: &str = "report.html";

    /// The adapter in a folder: it is one itself, or that of a run or a checkpoint with one.
    pub fn adapter_in(folder: &Path) -> Option<PathBuf> {
        let of_run = folder.join(Self::ADAPTER);
        [folder, &of_run]
            .into_iter()
            .find(|folder| peft::is_in(folder))
            .map(Path::to_owned)
    }

    /// Bytes that a run needs at least: the product and one checkpoint.
    pub fn needed_bytes(trainable_parameters: usize) -> u64 {
        product_bytes(trainable_parameters) + checkpoint_bytes(trainable_parameters)
    }

    /// What a run has come to, if anything.
    pub fn product_in(run: &Path) -> Option<PathBuf> {
        [Self::ADAPTER, Self::MODEL]
            .map(|folder| run.join(folder))
            .into_iter()
            .find(|folder| folder.exists())
    }

    /// The files of what a run has come to, by name; none where it has come to nothing.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn product_files(run: &Path) -> Result<Vec<PathBuf>, files::FileError> {
        Self::product_in(run).map_or_else(|| Ok(Vec::new()), |folder| files_in(&folder))
    }

    /// Writes the product: the best by validation loss, or the last without validation.
    pub(super) fn save_product(&self, decoder: &Decoder) -> Result<(), TrainError> {
        check_space(
            &self.path,
            product_bytes(decoder.trainable_parameters()) + self.product.beside_bytes(decoder),
        )?;
        write_folder_atomic(&self.path.join(self.product.folder()), |folder| {
            self.product.write(folder, decoder)
        })
    }

    /// Writes `checkpoints/step-N/` with an optimizer that is at rest, and removes the oldest
    /// beyond `limit`; the newest and the best stay.
    pub(super) fn save_checkpoint(
        &self,
        decoder: &Decoder,
        optimizer: &Optimizer,
        state: &State,
        limit: usize,
    ) -> Result<PathBuf, TrainError> {
        let checkpoints = self.path.join(Self::CHECKPOINTS);
        let path = checkpoints.join(name(state.step));
        let parameters = decoder.trainable_parameters();
        let training_point_bytes = if optimizer.average().is_some() {
            4 * parameters as u64
        } else {
            0
        };
        check_space(
            &self.path,
            checkpoint_bytes(parameters)
                + training_point_bytes
                + self.product.beside_bytes(decoder),
        )?;
        let mut state = state.clone();
        state.metrics_bytes = self.metrics.sync()?;
        state.samples_bytes = self.samples.as_ref().map_or(Ok(0), JsonLines::sync)?;
        write_folder_atomic::<TrainError>(&path, |folder| {
            self.product
                .write(&folder.join(self.product.folder()), decoder)?;
            optimizer.write(&folder.join(OPTIMIZER), decoder)?;
            let text = serde_json::to_string_pretty(&state).expect("a state can be printed");
            write_atomic(&folder.join(STATE), (text + "\n").as_bytes())?;
            write_atomic(&folder.join(Self::LOCK), self.lock.as_bytes())?;
            Ok(write_manifest(folder)?)
        })?;
        self.remove_oldest(&state, limit)?;
        Ok(path)
    }

    /// Leaves `limit` checkpoints, the newest and the best among them. Those of later steps were
    /// not whole when the run was resumed.
    fn remove_oldest(&self, state: &State, limit: usize) -> Result<(), TrainError> {
        let found: Vec<_> = checkpoints_of(&self.path)?
            .into_iter()
            .filter(|(step, _)| *step <= state.step)
            .collect();
        let is_best = |step: u64| state.best_step == Some(step);
        let best_is_old = found.iter().skip(limit).any(|(step, _)| is_best(*step));
        let newest = if best_is_old {
            limit.saturating_sub(1).max(1)
        } else {
            limit
        };
        for (_, old) in found
            .iter()
            .skip(newest)
            .filter(|(step, _)| !is_best(*step))
        {
            files::remove_folder(old)?;
        }
        Ok(())
    }
}

/// The checkpoints of a run with their steps, newest first, whole or not.
pub(super) fn checkpoints_of(run: &Path) -> Result<Vec<(u64, PathBuf)>, files::FileError> {
    let folder = run.join(RunFolder::CHECKPOINTS);
    // A link that leads nowhere is a disk that is not there, not a run without checkpoints.
    if folder
        .symlink_metadata()
        .is_err_and(|cause| cause.kind() == ErrorKind::NotFound)
    {
        return Ok(Vec::new());
    }
    let failed = |cause| files::FileError::new("read", &folder, cause);
    let step = |path: &Path| {
        path.file_name()?
            .to_str()?
            .strip_prefix("step-")?
            .parse::<u64>()
            .ok()
    };
    let paths: Result<Vec<PathBuf>, _> = fs::read_dir(&folder)
        .map_err(failed)?
        .map(|entry| Ok(entry?.path()))
        .collect();
    let paths = paths.map_err(failed)?.into_iter();
    let mut found: Vec<(u64, PathBuf)> = paths
        .filter_map(|path| Some((step(&path)?, path)))
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    Ok(found)
}

/// Folder of a step's checkpoint.
pub(super) fn name(step: u64) -> String {
    format!("step-{step}")
}

fn bytes_of(files: &[(PathBuf, Vec<u8>)]) -> u64 {
    files.iter().map(|(_, content)| content.len() as u64).sum()
}

fn product_bytes(parameters: usize) -> u64 {
    4 * parameters as u64 + SMALL_FILES_BYTES
}

/// The product and the state of an optimizer, which has two numbers for each of it at most.
fn checkpoint_bytes(parameters: usize) -> u64 {
    3 * 4 * parameters as u64 + SMALL_FILES_BYTES
}
