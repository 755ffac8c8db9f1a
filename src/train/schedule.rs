//! The learning rate of each optimizer step, as transformers' schedules have it.

use std::f64::consts::PI;

use crate::terms::Curve;

/// A warm-up, then a course to the last step and beyond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// How the rate goes.
    pub course: RateCourse,
    /// Optimizer steps of the warm-up.
    pub warmup_steps: u64,
    /// Optimizer steps in all.
    pub total_steps: u64,
}

/// How a learning rate goes; rates are shares of the peak. A warm-up goes from 0 to 1 in a line
/// where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RateCourse {
    /// It stays.
    Constant,
    /// It falls to 0 in a line.
    Linear,
    /// It falls along a cosine to `min`: half a wave with `num_cycles` of 0.5.
    Cosine {
        /// Waves.
        num_cycles: f64,
        /// The lowest rate.
        min: f64,
    },
    /// The same, one step ahead: a warm-up that ends on its last step, and from there.
    CosineAhead {
        /// Waves.
        num_cycles: f64,
        /// The lowest rate.
        min: f64,
        /// The rate of the first step; without one it is that of a line from 0, a step ahead.
        warmup_start: Option<f64>,
    },
    /// It falls to 0 along half a cosine so many times.
    CosineWithRestarts {
        /// Falls.
        num_cycles: f64,
    },
    /// What is left of the way to the power of `power` falls to `end`.
    Polynomial {
        /// The power.
        power: f64,
        /// The last rate.
        end: f64,
    },
    /// One over the root of the steps over `timescale`.
    InverseSqrt {
        /// Steps; those of the warm-up where it is not said, or 10,000 without one.
        timescale: Option<f64>,
    },
    /// A warm-up, a plateau and a decay at the end.
    WarmupStableDecay(WarmupStableDecay),
    /// It stays, and a warm-up gives its first step a rate: schedule-free optimizers average by the
    /// rate, and have no use for a step of 0.
    ScheduleFree,
}

/// Three stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmupStableDecay {
    /// Steps of the last; `None` for a tenth of all.
    pub num_decay_steps: Option<u64>,
    /// Steps of the plateau; what the others leave where it is not said.
    pub num_stable_steps: Option<u64>,
    /// How the first goes.
    pub warmup_type: Curve,
    /// How the last goes.
    pub decay_type: Curve,
    /// The rate before the first and after the last.
    pub min: f64,
    /// Waves of a decay along a cosine.
    pub num_cycles: f64,
}

/// Steps that are taken, of a warm-up, and in all.
#[derive(Clone, Copy)]
struct Steps {
    taken: f64,
    warmup: f64,
    total: f64,
}

impl Schedule {
    /// The learning rate of the step after `taken` steps, skipped ones included; the first one's is
    /// `lr_at(0)`, 0 after most warm-ups.
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
    /// The share of the way from the warm-up to the end that is behind.
    fn progress(self) -> f64 {
        (self.taken - self.warmup) / (self.total - self.warmup).max(1.0)
    }
}

/// A cosine from 1, around 1/2.
fn wave(turns: f64) -> f64 {
    0.5 * (1.0 + (2.0 * PI * turns).cos())
}

/// From `min` on up to 1.
fn above(min: f64, rate: f64) -> f64 {
    rate * (1.0 - min) + min
}

impl RateCourse {
    /// The rate of a step of the warm-up.
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

    /// The rate of a step after it.
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
