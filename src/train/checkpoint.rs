//! What a run leaves on disk: the best adapter, and checkpoints with everything that the next step depends on.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::optimizer::AdamW;
use crate::adapter::{LoraConfig, peft, tensors};
use crate::files::safetensors::{Named, write_f32};
use crate::files::{self, write_atomic, write_folder_atomic};
use crate::model::Decoder;

/// Where a run writes, and what its adapters' files say.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
    /// The adapter's config.
    pub adapter: LoraConfig,
    /// The base as a reader of the adapter is to find it.
    pub base: String,
}

/// What the next step depends on beside the adapter and the optimizer's moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps taken, skipped ones included.
    pub step: u64,
    /// Updates that the optimizer made.
    pub updates: u64,
    /// Tokens seen, padding excluded.
    pub tokens: u64,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Validation loss before the first step.
    pub eval_loss_first: Option<f64>,
    /// Lowest validation loss after a step.
    pub eval_loss_best: Option<f64>,
    /// The step that had it.
    pub best_step: Option<u64>,
    /// Evaluations since then.
    pub evaluations_without_improvement: u64,
    /// Seconds of training.
    pub seconds: f64,
}

impl RunFolder {
    /// Folder of the adapter that the run is for.
    pub const ADAPTER: &str = "adapter";
    /// Folder of the checkpoints.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// One line a step and an evaluation.
    pub const METRICS: &str = "metrics.jsonl";
    /// What the run depends on; every run has it before anything else.
    pub const LOCK: &str = "recipe.lock.yaml";
    /// What was trained on what.
    pub const CARD: &str = "README.md";

    /// The adapter that a run is for: the best by validation loss, or the last without validation.
    pub fn adapter_path(&self) -> PathBuf {
        self.path.join(Self::ADAPTER)
    }

    /// Writes `adapter/`.
    pub(super) fn save_adapter(&self, decoder: &Decoder) -> Result<PathBuf, Error> {
        let path = self.adapter_path();
        write_folder_atomic(&path, |folder| self.write_adapter(folder, decoder))?;
        Ok(path)
    }

    /// Writes `checkpoints/step-N/` and removes the oldest beyond `limit`.
    pub(super) fn save_checkpoint(
        &self,
        decoder: &Decoder,
        optimizer: &AdamW,
        state: &State,
        limit: usize,
    ) -> Result<PathBuf, Error> {
        let checkpoints = self.path.join(Self::CHECKPOINTS);
        let path = checkpoints.join(format!("step-{}", state.step));
        write_folder_atomic::<Error>(&path, |folder| {
            self.write_adapter(&folder.join(Self::ADAPTER), decoder)?;
            write_f32(&folder.join("optimizer.safetensors"), &moments(decoder, optimizer), &[])?;
            let text = serde_json::to_string_pretty(state).expect("a state can be printed");
            Ok(write_atomic(&folder.join("state.json"), text.as_bytes())?)
        })?;
        remove_oldest(&checkpoints, limit)?;
        Ok(path)
    }

    fn write_adapter(&self, folder: &Path, decoder: &Decoder) -> Result<(), Error> {
        Ok(peft::write(folder, decoder, &self.adapter, &self.base)?)
    }
}

/// First and second moments under the adapter's keys.
fn moments(decoder: &Decoder, optimizer: &AdamW) -> Vec<Named> {
    let of = |index: usize| &optimizer.moments[index];
    let first = tensors(decoder, |index, _| of(index).each_ref().map(|moments| moments.first.clone()));
    let second = tensors(decoder, |index, _| of(index).each_ref().map(|moments| moments.second.clone()));
    let named = |prefix: &'static str| move |(key, shape, values): Named| (format!("{prefix}.{key}"), shape, values);
    first.into_iter().map(named("first_moment")).chain(second.into_iter().map(named("second_moment"))).collect()
}

fn remove_oldest(checkpoints: &Path, limit: usize) -> Result<(), Error> {
    let entries = fs::read_dir(checkpoints).map_err(|cause| files::Error::new("read", checkpoints, cause))?;
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<u64>().ok();
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((step(&entry.path())?, entry.path()))).collect();
    found.sort();
    for (_, path) in found.iter().rev().skip(limit) {
        fs::remove_dir_all(path).map_err(|cause| files::Error::new("remove", path, cause))?;
    }
    Ok(())
}
