//! The parts of a run's memory, and the phases in which they exist.

use serde::Serialize;

/// The memory of a run at its peak in bytes, part by part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryParts {
    /// The program, its threads and its tokenizer; on a GPU also what its allocator holds beyond
    /// what is in use.
    pub process_bytes: u64,
    /// Frozen weights.
    pub base_bytes: u64,
    /// Weights of the model that the objective learns from.
    pub teacher_bytes: u64,
    /// Trained weights.
    pub trained_bytes: u64,
    /// The optimizer's state.
    pub moments_bytes: u64,
    /// Additional memory while the base is read.
    pub loading_bytes: u64,
    /// Additional memory while validation rows are scored.
    pub evaluation_bytes: u64,
    /// Additional memory in a step, at its highest moment.
    pub step: StepParts,
    /// Additional memory while weights are updated.
    pub update_bytes: u64,
    /// Additional memory while a checkpoint is written.
    pub saving_bytes: u64,
}

/// A phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The base is read.
    Loading,
    /// Rows are scored.
    Evaluation,
    /// Forward and backward of a micro-batch.
    Step,
    /// The optimizer's update.
    Update,
    /// A checkpoint is written.
    Saving,
}

/// Bytes of a training step at its highest moment, in addition to what is held all the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StepParts {
    /// Gradients of weights.
    pub gradients_bytes: u64,
    /// Inputs and tapes of blocks.
    pub kept_bytes: u64,
    /// A recomputed tape; 0 if the highest moment is another.
    pub recomputed_bytes: u64,
    /// Working memory of a block's forward or backward; 0 if the highest moment is another.
    pub block_bytes: u64,
    /// Logits of a chunk and what is computed from them; 0 if the highest moment is another.
    pub head_bytes: u64,
}

impl StepParts {
    /// Returns the sum of all parts.
    pub fn bytes(self) -> u64 {
        self.gradients_bytes
            + self.kept_bytes
            + self.recomputed_bytes
            + self.block_bytes
            + self.head_bytes
    }
}

impl MemoryParts {
    /// Returns what every phase holds.
    pub fn held_bytes(&self) -> u64 {
        self.process_bytes
            + self.base_bytes
            + self.teacher_bytes
            + self.trained_bytes
            + self.moments_bytes
    }

    /// Returns what each phase needs on top.
    pub fn phases(&self) -> [(Phase, u64); 5] {
        [
            (Phase::Loading, self.loading_bytes),
            (Phase::Evaluation, self.evaluation_bytes),
            (Phase::Step, self.step.bytes()),
            (Phase::Update, self.update_bytes),
            (Phase::Saving, self.saving_bytes),
        ]
    }

    /// Returns the phase that needs most.
    pub fn highest(&self) -> Phase {
        self.phases()
            .into_iter()
            .max_by_key(|(_, bytes)| *bytes)
            .map_or(Phase::Step, |(phase, _)| phase)
    }

    /// Returns the peak.
    pub fn peak_bytes(&self) -> u64 {
        self.held_bytes()
            + self
                .phases()
                .map(|(_, bytes)| bytes)
                .into_iter()
                .max()
                .unwrap_or(0)
    }
}
