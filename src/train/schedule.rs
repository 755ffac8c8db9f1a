//! The learning rate of each optimizer step, by the schedules of transformers.

use std::f64::consts::PI;

use crate::terms::Curve;

/// A warm-up, then a course to the last step and beyond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// The course of the rate after the warm-up.
    pub course: RateCourse,
    /// Optimizer steps of the warm-up.
    pub warmup_steps: u64,
    /// Optimizer steps in all.
    pub total_steps: u64,
}

/// The course of a learning rate. Rates are fractions of the peak. A warm-up rises linearly from 0
/// to 1 unless stated otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RateCourse {
    /// The rate stays constant.
    Constant,
    /// The rate falls linearly to 0.
    Linear,
    /// The rate falls along a cosine to `min`: half a wave with `num_cycles` of 0.5.
    Cosine {
        /// Number of waves.
        num_cycles: f64,
        /// The lowest rate.
        min: f64,
    },
    /// The cosine course, one step ahead: the warm-up ends on its last step, and the course goes
    /// on from there.
    CosineAhead {
        /// Number of waves.
        num_cycles: f64,
        /// The lowest rate.
        min: f64,
        /// The rate of the first step; `None`: that of a line from 0, one step ahead.
        warmup_start: Option<f64>,
    },
    /// The rate falls to 0 along half a cosine, `num_cycles` times.
    CosineWithRestarts {
        /// Number of falls.
        num_cycles: f64,
    },
    /// The rate falls to `end` with the remaining fraction of the way to the power of `power`.
    Polynomial {
        /// The power.
        power: f64,
        /// The last rate.
        end: f64,
    },
    /// The rate falls with one over the root of the steps over `timescale`.
    InverseSqrt {
        /// Time scale in steps; by default the steps of the warm-up, or 10,000 without one.
        timescale: Option<f64>,
    },
    /// A warm-up, a plateau and a decay at the end.
    WarmupStableDecay(WarmupStableDecay),
    /// The rate stays constant, and the warm-up's first step has a rate above 0: schedule-free
    /// optimizers average by the rate, so a step at rate 0 would be useless.
    ScheduleFree,
}

/// A course of three stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmupStableDecay {
    /// Steps of the decay; `None`: a tenth of all steps.
    pub num_decay_steps: Option<u64>,
    /// Steps of the plateau; `None`: the steps that the other stages leave.
    pub num_stable_steps: Option<u64>,
    /// Curve of the warm-up.
    pub warmup_type: Curve,
    /// Curve of the decay.
    pub decay_type: Curve,
    /// The rate before the warm-up and after the decay.
    pub min: f64,
    /// Number of waves of a cosine decay.
    pub num_cycles: f64,
}

/// Steps taken, of the warm-up, and in all.
#[derive(Clone, Copy)]
struct Steps {
    taken: f64,
    warmup: f64,
    total: f64,
}

impl Schedule {
    /// Returns the learning rate of the step after `taken` steps, skipped ones included. The first
    /// step's is `lr_at(0)`, 0 after most warm-ups.
    pub fn lr_at(&self, taken: u64) -> f64 {
        let steps = Steps {
            taken: taken as f64,
            warmup: self.warmup_steps as f64,
            total: self.total_steps as f64,
        };
        let rate = if taken < self.warmup_steps {
            self.course.warming(steps)
        } else {
            self.course.rate(steps)
        };
        self.peak * rate.max(0.0)
    }
}

impl Steps {
    /// Returns the completed fraction of the way from the warm-up to the end.
    fn progress(self) -> f64 {
        (self.taken - self.warmup) / (self.total - self.warmup).max(1.0)
    }
}

/// Returns a cosine wave between 1 and 0 that begins at 1.
fn wave(turns: f64) -> f64 {
    0.5 * (1.0 + (2.0 * PI * turns).cos())
}

/// Maps a rate in [0, 1] to [`min`, 1].
fn above(min: f64, rate: f64) -> f64 {
    rate * (1.0 - min) + min
}

impl RateCourse {
    /// Returns the rate of a step of the warm-up.
    fn warming(self, steps: Steps) -> f64 {
        match self {
            Self::WarmupStableDecay(stages) => {
                let progress = steps.taken / steps.warmup;
                let rate = match stages.warmup_type {
                    Curve::Linear => progress,
                    Curve::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                    Curve::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
                };
                above(stages.min, rate)
            }
            Self::CosineAhead {
                warmup_start: Some(first),
                ..
            } => first + (1.0 - first) * steps.taken / (steps.warmup - 1.0).max(1.0),
            Self::ScheduleFree | Self::CosineAhead { .. } => (steps.taken + 1.0) / steps.warmup,
            _ => steps.taken / steps.warmup,
        }
    }

    /// Returns the rate of a step after the warm-up.
    fn rate(self, steps: Steps) -> f64 {
        let progress = steps.progress();
        match self {
            Self::Constant | Self::ScheduleFree => 1.0,
            Self::Linear => 1.0 - progress,
            Self::Cosine { num_cycles, min } => above(min, wave(num_cycles * progress)),
            Self::CosineAhead {
                num_cycles, min, ..
            } => {
                let ahead = Steps {
                    taken: steps.taken + 1.0,
                    ..steps
                };
                above(min, wave(num_cycles * ahead.progress()))
            }
            Self::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Self::CosineWithRestarts { num_cycles } => wave(0.5 * (num_cycles * progress).fract()),
            Self::Polynomial { end, .. }
                if steps.taken > steps.total || steps.total <= steps.warmup =>
            {
                end
            }
            Self::Polynomial { power, end } => (1.0 - end) * (1.0 - progress).powf(power) + end,
            Self::InverseSqrt { timescale } => {
                let timescale = timescale.unwrap_or(if steps.warmup > 0.0 {
                    steps.warmup
                } else {
                    1e4
                });
                1.0 / ((steps.taken + timescale - steps.warmup) / timescale).sqrt()
            }
            Self::WarmupStableDecay(stages) => stages.rate(steps),
        }
    }
}

impl WarmupStableDecay {
    fn rate(self, steps: Steps) -> f64 {
        let after_warmup = (steps.total - steps.warmup).max(0.0);
        let asked = self
            .num_decay_steps
            .map_or_else(|| (0.1 * steps.total).ceil(), |decay| decay as f64);
        // A decay that is longer than what the warm-up leaves is all of that.
        let (stable, decay) = match self.num_stable_steps {
            Some(stable) => (stable as f64, asked),
            None => (
                after_warmup - asked.min(after_warmup),
                asked.min(after_warmup),
            ),
        };
        let into_decay = steps.taken - steps.warmup - stable;
        if into_decay < 0.0 {
            return 1.0;
        }
        if into_decay >= decay {
            return self.min;
        }
        let progress = into_decay / decay;
        let rate = match self.decay_type {
            Curve::Linear => 1.0 - progress,
            Curve::Cosine => wave(self.num_cycles * progress),
            Curve::OneMinusSqrt => 1.0 - progress.sqrt(),
        };
        above(self.min, rate)
    }
}
