//! The rows of each step of a run. They depend on config and rows alone, so that a resumed run
//! continues as if it had never stopped.

use std::ops::Range;

use rayon::prelude::*;

use super::TrainConfig;
use crate::data::{Draw, Packing, Packs, Rows};

/// The order in which a run goes through its rows, epoch by epoch.
#[derive(Debug)]
pub struct StepSampler<'a> {
    config: &'a TrainConfig,
    rows: &'a Rows<'a>,
    /// The packs of the epoch that was asked for last.
    packs: Option<(u64, Packs)>,
}

/// Rows of one optimizer step.
#[derive(Debug, PartialEq, Eq)]
pub struct StepRows {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Places in the epoch's order; the last step of an epoch may have fewer.
    pub places: Range<usize>,
    /// The rows of each micro-batch.
    pub micro_batches: Vec<Vec<Draw>>,
}

impl<'a> StepSampler<'a> {
    /// Makes the sampler for these rows.
    pub fn new(config: &'a TrainConfig, rows: &'a Rows<'a>) -> Self {
        Self {
            config,
            rows,
            packs: None,
        }
    }

    /// Returns the packs of an epoch; without packing each row is a pack.
    pub fn packs(&self, epoch: u64) -> Packs {
        let TrainConfig {
            shuffle,
            seed,
            packing,
            ..
        } = *self.config;
        self.rows.epoch(packing, shuffle.then_some(seed), epoch)
    }

    /// Returns the number of packs per step.
    pub fn packs_per_step(&self) -> usize {
        self.config.micro_batch_size * self.config.gradient_accumulation_steps
    }

    /// Returns the number of optimizer steps of an epoch.
    pub fn steps_of(&self, epoch: u64) -> u64 {
        let packs = if self.config.packing == Packing::Off {
            self.rows.per_epoch()
        } else {
            self.packs(epoch).len()
        };
        packs.div_ceil(self.packs_per_step()) as u64
    }

    /// Returns the number of optimizer steps of `epochs` epochs. Rows that are shuffled or mixed
    /// can make a different number of packs in each.
    pub fn steps(&self, epochs: u64) -> u64 {
        if self.config.packing == Packing::Off
            || !(self.config.shuffle || self.rows.mixture().is_some())
        {
            return self.steps_of(0) * epochs;
        }
        (0..epochs)
            .into_par_iter()
            .map(|epoch| self.steps_of(epoch))
            .sum()
    }

    /// Returns the rows of the step after `place` rows of `epoch`. After the last row the next
    /// epoch begins.
    pub fn after(&mut self, epoch: u64, place: u64) -> StepRows {
        let done = usize::try_from(place).unwrap_or(usize::MAX);
        let (epoch, done) = if done >= self.rows.per_epoch() {
            (epoch + 1, 0)
        } else {
            (epoch, done)
        };
        if self.packs.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.packs = Some((epoch, self.packs(epoch)));
        }
        let (_, packs) = self.packs.as_ref().expect("just made");
        let first = packs.after(done);
        let last = packs.len().min(first + self.packs_per_step());
        let size = self.config.micro_batch_size;
        let micro_batches = (first..last)
            .step_by(size)
            .map(|first| packs.draws(first..last.min(first + size)));
        StepRows {
            epoch,
            places: packs.begin(first)..packs.begin(last),
            micro_batches: micro_batches.collect(),
        }
    }
}
