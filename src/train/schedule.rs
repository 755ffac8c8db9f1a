//! The learning rate of each optimizer step, as transformers' schedules have it.

use std::f64::consts::PI;

use crate::terms::Scheduler;

/// A warm-up from 0 in a line, then the scheduler's course to the last step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// The course after the warm-up.
    pub scheduler: Scheduler,
    /// Optimizer steps of the warm-up.
    pub warmup_steps: u64,
    /// Optimizer steps in all.
    pub total_steps: u64,
    /// Share of the peak at which `cosine_with_min_lr` ends.
    pub min_lr_rate: f64,
}

impl Schedule {
    /// The learning rate of the step after `taken` steps, skipped ones included; the first one's is `lr_at(0)`, 0 if there is a warm-up.
    pub fn lr_at(&self, taken: u64) -> f64 {
        let Self { warmup_steps, total_steps, .. } = *self;
        if taken < warmup_steps {
            return self.peak * taken as f64 / warmup_steps as f64;
        }
        let progress = (taken - warmup_steps) as f64 / total_steps.saturating_sub(warmup_steps).max(1) as f64;
        let cosine = 0.5 * (1.0 + (PI * progress).cos());
        let rate = match self.scheduler {
            Scheduler::Constant => 1.0,
            Scheduler::Linear => 1.0 - progress,
            Scheduler::Cosine => cosine,
            Scheduler::CosineWithMinLr => cosine * (1.0 - self.min_lr_rate) + self.min_lr_rate,
        };
        self.peak * rate.max(0.0)
    }
}
