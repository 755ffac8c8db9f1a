//! Back from a checkpoint to where a run was. Which one is the latest is never written down: it is the highest step whose manifest
//! holds.

use std::path::{Path, PathBuf};

use super::Error;
use super::checkpoint::{MOMENTS, OPTIMIZER, RunFolder, STATE, checkpoints_of, name};
use super::optimizer::{AdamW, AdamWConfig, Moments};
use super::state::State;
use crate::adapter::{LoraConfig, Numbers, matrices, peft};
use crate::files::safetensors::Archive;
use crate::files::{Unproven, read_text, unproven, verify_manifest, write_atomic, write_folder_atomic};
use crate::model::{Decoder, LinearSpec};
use crate::report::{Event, Reporter};

/// A checkpoint that is whole.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// Where the run was.
    pub state: State,
}

/// Where a loop starts.
#[derive(Debug)]
pub struct Start {
    /// What was done before.
    pub state: State,
    /// With the moments that it had.
    pub optimizer: AdamW,
}

impl Checkpoint {
    /// The checkpoint with the highest step that holds what was written into it; newer ones that do not are told as notes.
    ///
    /// # Errors
    /// One cannot be read, so that it is not known whether it is whole; or there are some and none is whole.
    pub fn latest(run: &Path, report: Reporter) -> Result<Option<Self>, Error> {
        let found = checkpoints_of(run)?;
        for (step, path) in &found {
            match Self::open(path, *step) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(Unproven::File(error)) => return Err(error.into()),
                Err(reason) => report(Event::Note(format!("`{}` is passed over: {reason}", path.display()))),
            }
        }
        if found.is_empty() { Ok(None) } else { Err(Error::NoneWhole { run: run.to_owned(), checkpoints: found.len() }) }
    }

    /// Whether a folder is a checkpoint of a run.
    pub fn is_one(folder: &Path) -> bool {
        folder.join(STATE).exists() && folder.join(OPTIMIZER).exists()
    }

    fn open(path: &Path, step: u64) -> Result<Self, Unproven> {
        verify_manifest(path)?;
        let state = State::parse(&read_text(&path.join(STATE)).map_err(unproven)?).map_err(Unproven::Differs)?;
        if state.step != step {
            return Err(Unproven::Differs(format!("its state.json is of step {}", state.step)));
        }
        Ok(Self { path: path.to_owned(), state })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The adapter's matrices.
    ///
    /// # Errors
    /// They are not those of this adapter on this model.
    pub fn numbers(&self, config: &LoraConfig, projections: &[LinearSpec]) -> Result<Numbers, Error> {
        Ok(peft::read_numbers(&self.path.join(RunFolder::ADAPTER), config, projections)?)
    }

    /// Where the loop goes on: `decoder` has the adapter of [`Checkpoint::numbers`] attached.
    ///
    /// # Errors
    /// The moments are not those of this adapter on this model.
    pub fn start(self, optimizer: AdamWConfig, adapter: &LoraConfig, decoder: &Decoder) -> Result<Start, Error> {
        let archive = Archive::open(&self.path.join(OPTIMIZER))?;
        let projections = decoder.spec.projections();
        let [first, second] = MOMENTS.map(|prefix| {
            let numbers = peft::numbers_in(&archive, prefix, adapter, &projections)?;
            Ok::<_, Error>(matrices(decoder, &numbers)?)
        });
        let of_pair = |(first, second): ([_; 2], [_; 2])| {
            let ([first_a, first_b], [second_a, second_b]) = (first, second);
            [Moments { first: first_a, second: second_a }, Moments { first: first_b, second: second_b }]
        };
        let moments = first?.into_iter().zip(second?).map(of_pair).collect();
        Ok(Start { optimizer: AdamW::restore(optimizer, self.state.updates, moments), state: self.state })
    }

    /// Makes the run's `adapter/` that of the best step again, should it be missing, damaged or of a later step. Nothing is done where
    /// the best step has no whole checkpoint.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn restore_adapter(&self, run: &Path) -> Result<(), Error> {
        let Some(best) = self.state.best_step else { return Ok(()) };
        let folder = run.join(RunFolder::CHECKPOINTS).join(name(best));
        if verify_manifest(&folder).is_err() {
            return Ok(());
        }
        let (from, to) = (peft::files(&folder.join(RunFolder::ADAPTER)), run.join(RunFolder::ADAPTER));
        let read = |path: &PathBuf| std::fs::read(path).map_err(|cause| crate::files::Error::new("read", path, cause));
        if from.iter().zip(peft::files(&to)).all(|(from, to)| read(from).ok() == read(&to).ok()) {
            return Ok(());
        }
        write_folder_atomic(&to, |new| {
            from.iter().zip(peft::files(new)).try_for_each(|(from, to)| Ok(write_atomic(&to, &read(from)?)?))
        })
    }
}

impl Start {
    /// The first step of a run.
    pub fn fresh(optimizer: AdamWConfig, decoder: &Decoder) -> Self {
        Self { state: State::start(), optimizer: AdamW::new(optimizer, decoder) }
    }
}
