//! The memory of a plan: what its rows make of the closed form, how many blocks recompute, and the refusal of what does not fit.

use super::Error;
use super::adapter::Trains;
use super::memory::{Largest, Load, Parts, Phase, Place, Purpose, Rows, Trained, fewest_recomputed};
use super::resolve::Plan;
use super::rows::RunData;
use crate::device;
use crate::terms::{Checkpointing, Device};
use crate::train::{self, Memory};

/// Share of what is free that a run takes without being told: the closed form may be a few percent off, and others want memory too.
const SHARE_OF_FREE: f64 = 0.9;

/// How much memory a run needs, and how much it may have.
#[derive(Debug, Clone)]
pub struct MemoryPlan {
    /// What it follows from.
    pub load: Load,
    /// How many blocks recompute.
    pub chosen: Memory,
    /// What the run needs so.
    pub parts: Parts,
    /// The rank that a change of the recipe could lower; `None` where the recipe does not set it for all.
    rank: Option<usize>,
    /// What it may have; `None` where the system does not tell and the recipe does not say.
    pub allowed: Option<Allowed>,
    /// Where it computes.
    device: Device,
    /// The largest tensor that is taken there; `None` where there is no limit but memory.
    largest_tensor_bytes: Option<u64>,
}

/// What a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// In bytes.
    pub bytes: u64,
    /// Whether `training.max_memory` says so.
    pub is_said: bool,
}

impl Allowed {
    /// What the recipe says, or most of what is free on the device, where that is known.
    pub(super) fn find(said_bytes: Option<u64>, device: Device) -> Option<Self> {
        let said = said_bytes.map(|bytes| Self { bytes, is_said: true });
        let free = || device::free_memory_bytes(device);
        said.or_else(|| free().map(|bytes| Self { bytes: (bytes as f64 * SHARE_OF_FREE) as u64, is_said: false }))
    }

    fn describe(self) -> String {
        let from = if self.is_said { "training.max_memory".to_owned() } else { format!("{SHARE_OF_FREE} of what is free") };
        format!("{} ({from})", megabytes(self.bytes))
    }
}

impl MemoryPlan {
    fn new(load: Load, checkpointing: Checkpointing, rank: Option<usize>, allowed: Option<Allowed>, device: Device) -> Self {
        let blocks = load.spec.layers.len();
        let recomputed = match checkpointing {
            Checkpointing::All => blocks,
            Checkpointing::None => 0,
            Checkpointing::Lowest(lowest) => lowest.min(blocks),
            Checkpointing::Auto => allowed.and_then(|allowed| fewest_recomputed(&load, allowed.bytes)).unwrap_or(blocks),
        };
        let chosen = Memory { recomputed };
        let limits = device::find(device).and_then(|found| found.limits);
        let largest_tensor_bytes = limits.map(|limits| limits.max_buffer_bytes);
        Self { parts: load.parts(chosen), chosen, rank, allowed, device, largest_tensor_bytes, load }
    }

    /// The same with as few recomputed blocks as fit; unchanged where none do, or where what is chosen fits. Recomputed blocks have the
    /// same bits, so a run may go on with another number of them than it started with.
    #[must_use]
    pub fn relieved(self) -> Self {
        let fewest = || self.allowed.and_then(|allowed| fewest_recomputed(&self.load, allowed.bytes));
        match if self.fits() { None } else { fewest() } {
            Some(recomputed) => Self::new(self.load, Checkpointing::Lowest(recomputed), self.rank, self.allowed, self.device),
            None => self,
        }
    }

    /// Whether the run stays within what it may have.
    pub fn fits(&self) -> bool {
        self.allowed.is_none_or(|allowed| self.parts.peak_bytes() <= allowed.bytes)
    }

    /// The parts by name, in words: what is held all the time, then what each phase has on top.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let (parts, blocks) = (&self.parts, self.load.spec.layers.len());
        let allowed = self.allowed.map_or_else(|| "an unknown amount".to_owned(), Allowed::describe);
        let step = parts.step;
        let working = step.recomputed_bytes + step.block_bytes + step.head_bytes;
        let held = [
            (if matches!(self.load.place, Place::Gpu { .. }) { "  pools" } else { "  process" }, parts.process_bytes),
            ("  frozen weights", parts.base_bytes),
            ("  trained weights", parts.trained_bytes),
            ("  their moments", parts.moments_bytes),
        ];
        let of_step = format!(
            "{}: gradients {}, kept activations {}, work {}",
            megabytes(step.bytes()),
            megabytes(step.gradients_bytes),
            megabytes(step.kept_bytes),
            megabytes(working)
        );
        let phase = |(phase, bytes): (Phase, u64)| match phase {
            Phase::Loading => ("  + loading", megabytes(bytes)),
            Phase::Evaluation => ("  + evaluation", megabytes(bytes)),
            Phase::Step => ("  + step", of_step.clone()),
            Phase::Update => ("  + update", megabytes(bytes)),
            Phase::Saving => ("  + saving", megabytes(bytes)),
        };
        let summary = [
            ("peak memory", format!("{} of {allowed}, while {}", megabytes(parts.peak_bytes()), doing(parts.highest()))),
            ("recomputed blocks", format!("{} of {blocks}", self.chosen.recomputed)),
        ];
        let held = held.map(|(name, bytes)| (name, megabytes(bytes)));
        summary.into_iter().chain(held).chain(parts.phases().map(phase)).collect()
    }

    /// Refuses a run that would need more than it may have.
    ///
    /// # Errors
    /// It would; with both sides and the smallest change of the recipe with which it would not.
    pub fn check(&self) -> Result<(), Error> {
        self.check_largest()?;
        let Some(allowed) = self.allowed.filter(|_| !self.fits()) else { return Ok(()) };
        let parts = &self.parts;
        let message = format!(
            "the run needs {} of memory at its peak, {} are allowed: {} frozen weights, {} trained weights and moments, {} while {}, {} process",
            megabytes(parts.peak_bytes()),
            allowed.describe(),
            megabytes(parts.base_bytes),
            megabytes(parts.trained_bytes + parts.moments_bytes),
            megabytes(parts.peak_bytes() - parts.held_bytes()),
            doing(parts.highest()),
            megabytes(parts.process_bytes),
        );
        Err(Error::Memory { message, hint: self.hint(allowed) })
    }

    /// Refuses a run with a tensor that the device does not take.
    fn check_largest(&self) -> Result<(), Error> {
        let (bytes, of) = self.load.largest_tensor();
        let Some(largest) = self.largest_tensor_bytes.filter(|largest| bytes > *largest) else { return Ok(()) };
        let message =
            format!("the run has a tensor of {}, `{}` takes tensors up to {}", megabytes(bytes), self.device, megabytes(largest));
        let hint = match (of, self.load.is_full()) {
            (Largest::Tokens, _) => {
                "lower `training.micro_batch_size` and raise `gradient_accumulation_steps`, or lower `training.sequence_len`"
            }
            (Largest::Trained, false) => "lower `adapter.r`, or train on another device",
            (Largest::Trained, true) => "train an adapter with `adapter.method: lora`, or train on another device",
            (Largest::Base, _) => "train on another device",
        };
        Err(Error::Memory { message, hint: hint.to_owned() })
    }

    /// The smallest change of the recipe that needs less than what ran out, which is what the device held by then, where that is known.
    pub fn smaller(&self, held_bytes: Option<u64>) -> String {
        let less = self.parts.peak_bytes() - 1;
        self.hint(Allowed { bytes: held_bytes.map_or(less, |held| held.min(less)), is_said: true })
    }

    fn hint(&self, allowed: Allowed) -> String {
        let fits = |change: &str, peak_bytes: u64| format!("`{change}` needs {}", megabytes(peak_bytes));
        let least_bytes = self.load.least_peak_bytes();
        if least_bytes <= allowed.bytes {
            return fits("training.gradient_checkpointing=true", least_bytes);
        }
        match self.load.smallest_change(self.rank, allowed.bytes) {
            Some(change) => {
                let recomputes = self.chosen.recomputed == self.load.spec.layers.len();
                let first = if recomputes { None } else { Some("training.gradient_checkpointing=true".to_owned()) };
                fits(&first.into_iter().chain(change.overrides).collect::<Vec<_>>().join(" "), change.peak_bytes)
            }
            None => "choose a smaller base, free memory, or train where there is more of it".to_owned(),
        }
    }
}

/// A phase as a sentence goes on.
fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "the base is read",
        Phase::Evaluation => "rows are scored",
        Phase::Step => "a step is taken",
        Phase::Update => "weights are updated",
        Phase::Saving => "a checkpoint is written",
    }
}

/// Bytes as megabytes of 10⁶, or gigabytes of 10⁹ from ten thousand of them on.
pub fn megabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        megabytes if megabytes >= 9999.5 => format!("{:.1} GB", megabytes / 1e3),
        megabytes if megabytes >= 9.95 => format!("{megabytes:.0} MB"),
        megabytes => format!("{megabytes:.1} MB"),
    }
}

impl Plan {
    /// The memory that a run over these rows needs. All of its micro-batches are looked at.
    pub(super) fn memory(&self, data: &RunData, config: &train::Config) -> MemoryPlan {
        let rank = match &self.trains {
            Trains::Adapter(config) if self.init_from.is_none() && config.rank_pattern.is_empty() => Some(config.rank),
            _ => None,
        };
        MemoryPlan::new(self.load(data, config), self.training.checkpointing, rank, self.allowed, self.device)
    }

    fn load(&self, data: &RunData, config: &train::Config) -> Load {
        let spec = self.model.spec.clone();
        let trained = match &self.trains {
            Trains::Adapter(config) => Trained::adapter(config, &spec).expect("the plan counted its parameters"),
            Trains::Everything => Trained::everything(&spec),
        };
        let dropout = self.trains.dropout();
        let rows = data.largest_trained(config).unwrap_or(Rows::dense(self.training.micro_batch_size, 2));
        let evaluation = data.largest_scored(config.micro_batch_size, config.packing);
        let accumulated = self.training.gradient_accumulation_steps;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let place = Place::of(self.device, if self.threads == 0 { cores() } else { self.threads });
        Load { spec, storage: self.storage, trained, dropout, rows, accumulated, evaluation, purpose: Purpose::Run, place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_with_less_memory_recomputes_more() {
        let load = super::super::memory::tests::load(4, 2, Rows::dense(4, 64));
        let plan = |allowed| {
            let allowed = Allowed { bytes: allowed, is_said: true };
            MemoryPlan::new(load.clone(), Checkpointing::None, None, Some(allowed), Device::Cpu)
        };
        let [kept, least] = [Memory::KEEP, Memory::RECOMPUTE].map(|memory| load.parts(memory).peak_bytes());
        assert_eq!(plan(kept).relieved().chosen, Memory::KEEP);
        let relieved = plan(kept - 1).relieved();
        assert!(relieved.fits() && relieved.chosen.recomputed > 0, "{relieved:?}");
        assert_eq!(plan(least - 1).relieved().chosen, Memory::KEEP, "nothing helps");
    }

    #[test]
    fn a_tensor_that_the_device_does_not_take_is_refused_with_what_makes_it_smaller() {
        let load = super::super::memory::tests::load(2, 2, Rows::dense(64, 512));
        let (bytes, of) = load.largest_tensor();
        let gate_up = 64 * 512 * 2 * 6 * 4;
        let logits = 4096 * 10 * 4;
        assert_eq!((bytes, of), (gate_up, Largest::Tokens));
        let plan = |load: &Load, largest| MemoryPlan {
            largest_tensor_bytes: Some(largest),
            ..MemoryPlan::new(load.clone(), Checkpointing::None, None, None, Device::Cpu)
        };
        assert!(plan(&load, gate_up).check().is_ok());
        let said = |load: &Load, largest| match plan(load, largest).check() {
            Err(Error::Memory { message, hint }) => format!("{message}; {hint}"),
            other => panic!("{other:?}"),
        };
        let refused = said(&load, gate_up - 1);
        assert!(refused.contains("takes tensors up to 1.6 MB; lower `training.micro_batch_size`"), "{refused}");
        let short = load.with_rows(Rows::dense(1, 2));
        assert_eq!(short.largest_tensor(), (logits, Largest::Base));
        assert!(said(&short, logits - 1).ends_with("; train on another device"));
    }
}
