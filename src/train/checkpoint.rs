//! The files of a run: its product, which is the best adapter or model, and checkpoints with
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
/// Bytes of everything except weights: configs, state, lock, manifest and the folders themselves.
const SMALL_FILES_BYTES: u64 = 64 << 10;

/// The product of a run.
#[allow(clippy::large_enum_variant, reason = "one a run")]
#[derive(Debug)]
pub enum Product {
    /// An adapter, as a folder in PEFT's format.
    Adapter {
        /// Its config.
        config: LoraConfig,
        /// The base, as a reader of the adapter finds it.
        base: String,
        /// Files of the adapter's tokenizer, where it differs from the base's.
        beside: Vec<(PathBuf, Vec<u8>)>,
    },
    /// A model, as a folder in Hugging Face's format.
    Model {
        /// Files that accompany the weights: see [`crate::model::CompanionFiles::read`].
        beside: Vec<(PathBuf, Vec<u8>)>,
    },
}

impl Product {
    /// Returns the name of the product's folder, in a run and in a checkpoint.
    pub fn folder(&self) -> &'static str {
        match self {
            Self::Adapter { .. } => RunFolder::ADAPTER,
            Self::Model { .. } => RunFolder::MODEL,
        }
    }

    /// Returns the bytes of the accompanying files.
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

/// The folder of a run.
#[derive(Debug)]
pub struct RunFolder {
    /// The path.
    pub path: PathBuf,
    /// The product.
    pub product: Product,
    /// The run's lock; every checkpoint has a copy of it.
    pub lock: String,
    /// The log of steps.
    pub metrics: JsonLines,
    /// The log of answers to the prompts, where the recipe has prompts.
    pub samples: Option<JsonLines>,
}

impl RunFolder {
    /// Folder of the trained adapter.
    pub const ADAPTER: &str = "adapter";
    /// Folder of the trained model.
    pub const MODEL: &str = "model";
    /// Folder of the checkpoints.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// File with one line per step or evaluation.
    pub const METRICS: &str = "metrics.jsonl";
    /// File with one line per answer to a prompt.
    pub const SAMPLES: &str = "samples.jsonl";
    /// File with one line for each time that `rankine eval` scored the run.
    pub const EVALUATIONS: &str = "eval.jsonl";
    /// Folder of the event files for TensorBoard.
    pub const TENSORBOARD: &str = "tensorboard";
    /// Folder of the tokenized data, where the recipe keeps it with the run.
    pub const CACHE: &str = "cache";
    /// File with everything that the run depends on; it is the first file of every run.
    pub const LOCK: &str = "recipe.lock.yaml";
    /// File that tells what was trained on what data.
    pub const CARD: &str = "README.md";
    /// File with the result of the run, written at the end.
    pub const RESULT: &str = "result.json";
    /// The page that `rankine report` makes of the run.
    pub const PAGE: &str = "report.html";

    /// Finds the adapter of a folder, which is an adapter itself, or a run or a checkpoint with
    /// one.
    pub fn adapter_in(folder: &Path) -> Option<PathBuf> {
        let of_run = folder.join(Self::ADAPTER);
        [folder, &of_run]
            .into_iter()
            .find(|folder| peft::is_in(folder))
            .map(Path::to_owned)
    }

    /// Returns the bytes that a run needs at least: the product and one checkpoint.
    pub fn needed_bytes(trainable_parameters: usize) -> u64 {
        product_bytes(trainable_parameters) + checkpoint_bytes(trainable_parameters)
    }

    /// Returns the folder of a run's product, if there is one.
    pub fn product_in(run: &Path) -> Option<PathBuf> {
        [Self::ADAPTER, Self::MODEL]
            .map(|folder| run.join(folder))
            .into_iter()
            .find(|folder| folder.exists())
    }

    /// Lists the files of a run's product by name; none where there is no product.
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
    /// checkpoints beyond `limit`; the newest and the best stay.
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

    /// Keeps `limit` checkpoints, the newest and the best among them. Checkpoints of later steps
    /// were not whole when the run was resumed.
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

/// Lists the checkpoints of a run with their steps, newest first, whole or not.
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

/// Returns the folder name of a step's checkpoint.
pub(super) fn name(step: u64) -> String {
    format!("step-{step}")
}

fn bytes_of(files: &[(PathBuf, Vec<u8>)]) -> u64 {
    files.iter().map(|(_, content)| content.len() as u64).sum()
}

fn product_bytes(parameters: usize) -> u64 {
    4 * parameters as u64 + SMALL_FILES_BYTES
}

/// Returns the bytes of the product and of an optimizer's state, which has at most two numbers per
/// parameter.
fn checkpoint_bytes(parameters: usize) -> u64 {
    3 * 4 * parameters as u64 + SMALL_FILES_BYTES
}
