//! Finds what fits in memory: how many blocks have to be recomputed, how long rows may be, and the
//! smallest change of a recipe that helps.

use super::{F32, Load, MemoryPlace, MicroBatchRows, Trained};
use crate::quant::QuantFormat;
use crate::terms::{Method, ModelDtype};
use crate::train::Memory;

/// Returns the fewest recomputed blocks with which a run stays within this many bytes; `None` if it
/// does not with all of them.
pub fn fewest_recomputed(load: &Load, allowed_bytes: u64) -> Option<usize> {
    let fits = |recomputed: &usize| {
        load.parts(Memory {
            recomputed: *recomputed,
        })
        .peak_bytes()
            <= allowed_bytes
    };
    (0..=load.spec.layers.len()).find(fits)
}

/// Returns the longest rows, one at a time and with every block recomputed, with which a run stays
/// within this many bytes: a power of two from `shortest` on, or the model's context. `None` if the
/// shortest does not fit.
pub fn longest_that_fits(load: &Load, allowed_bytes: u64, shortest: usize) -> Option<usize> {
    let context = load.spec.context;
    let lengths = std::iter::successors(Some(shortest), |length| Some(length * 2))
        .take_while(|length| *length < context);
    let fits = |length: &usize| {
        load.with_rows(MicroBatchRows::dense(1, *length))
            .least_peak_bytes()
            <= allowed_bytes
    };
    lengths.chain([context]).take_while(fits).last()
}

/// A suggested change of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Overrides, each `key=value`, to append to the command.
    pub overrides: Vec<String>,
    /// The peak memory with them, in bytes.
    pub peak_bytes: u64,
}

impl Load {
    /// Returns the smallest change with which a run whose blocks are all recomputed stays within
    /// this many bytes. Changes that leave the steps the same come first: an embedding in CPU
    /// memory, then a smaller micro-batch with more accumulation. Then come a frozen base of 16
    /// bits, then of 4; then shorter rows; then smaller adapters. `None` if no such change is
    /// enough.
    pub fn smallest_change(&self, rank: Option<usize>, allowed_bytes: u64) -> Option<Hint> {
        let (mut load, mut overrides) = (self.clone(), Vec::new());
        let hint = |load: &Self, overrides: &[String]| {
            let peak_bytes = load.least_peak_bytes();
            (peak_bytes <= allowed_bytes).then(|| Hint {
                overrides: overrides.to_vec(),
                peak_bytes,
            })
        };
        if load.may_offload() {
            load = load.offloaded();
            overrides.push("adapter.offload_embedding=true".to_owned());
            if let Some(hint) = hint(&load, &overrides) {
                return Some(hint);
            }
        }
        let (unsplit, of_unsplit) = (load.clone(), overrides.clone());
        let whole = load.rows.count;
        for parts in (2..=whole).filter(|parts| whole.is_multiple_of(*parts)) {
            load = unsplit.split(parts);
            overrides.clone_from(&of_unsplit);
            overrides.push(format!("training.micro_batch_size={}", load.rows.count));
            overrides.push(format!(
                "training.gradient_accumulation_steps={}",
                load.accumulated
            ));
            if let Some(hint) = hint(&load, &overrides) {
                return Some(hint);
            }
        }
        let half = match load.place {
            MemoryPlace::Processor { .. } => Some(ModelDtype::Bfloat16),
            MemoryPlace::Gpu { half, .. } => half,
        };
        if let Some(half) =
            half.filter(|_| load.trained.method == Method::Lora && load.kept_bytes() == F32)
        {
            load.storage.dtype = half;
            overrides.push(format!("training.model_dtype={half}"));
            if let Some(hint) = hint(&load, &overrides) {
                return Some(hint);
            }
        }
        if load.trained.method == Method::Lora && load.storage.form.is_none() {
            load.storage.form = Some(QuantFormat::QLORA);
            overrides.push("adapter.method=qlora".to_owned());
            if let Some(hint) = hint(&load, &overrides) {
                return Some(hint);
            }
        }
        let mut shorter = overrides.clone();
        while load.rows.length > 64 {
            load = load.shortened(load.rows.length.next_power_of_two() / 2);
            shorter.clone_from(&overrides);
            // Longer rows would be left out, and a run that leaves out too many is refused.
            shorter.push(format!("training.sequence_len={}", load.rows.length));
            shorter.push("training.truncation=truncate".to_owned());
            if let Some(hint) = hint(&load, &shorter) {
                return Some(hint);
            }
        }
        let mut rank = rank?;
        while rank > 1 {
            (rank, load.trained) = (rank.div_ceil(2), load.trained.halved());
            let smaller: Vec<_> = shorter
                .iter()
                .cloned()
                .chain([format!("adapter.r={rank}")])
                .collect();
            if let Some(hint) = hint(&load, &smaller) {
                return Some(hint);
            }
        }
        None
    }

    /// Returns the peak with every block recomputed.
    pub fn least_peak_bytes(&self) -> u64 {
        self.parts(Memory::RECOMPUTE).peak_bytes()
    }

    /// Returns the same load with other rows.
    #[must_use]
    pub fn with_rows(&self, rows: MicroBatchRows) -> Self {
        Self {
            rows,
            ..self.clone()
        }
    }

    /// Returns the same steps in micro-batches of a part of the rows. Rows are scored in batches of
    /// that size too.
    fn split(&self, parts: usize) -> Self {
        let count = self.rows.count.div_ceil(parts);
        let split = |rows: MicroBatchRows| rows.within(count, rows.length);
        Self {
            rows: split(self.rows),
            evaluation: self.evaluation.map(split),
            accumulated: self.accumulated * parts,
            ..self.clone()
        }
    }

    /// Returns the same load with rows of at most this many tokens.
    fn shortened(&self, length: usize) -> Self {
        let cut = |rows: MicroBatchRows| rows.within(rows.count, length);
        Self {
            rows: cut(self.rows),
            evaluation: self.evaluation.map(cut),
            ..self.clone()
        }
    }
}

impl Trained {
    /// Returns the same load with every rank halved, down to 1.
    fn halved(&self) -> Self {
        Self {
            ranks: self.ranks.iter().map(|rank| rank.div_ceil(2)).collect(),
            ..self.clone()
        }
    }
}
