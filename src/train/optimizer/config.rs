//! The optimizer of a run, its hyperparameters, and the memory of its state.

use super::AdamWConfig;
use crate::quant::STATE_BLOCK;

/// An optimizer's rule and its hyperparameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub rule: Rule,
    /// Betas, epsilon, decay and the rate of B; each rule uses those that it has.
    pub adamw: AdamWConfig,
}

impl From<AdamWConfig> for OptimizerConfig {
    fn from(adamw: AdamWConfig) -> Self {
        Self {
            rule: Rule::AdamW,
            adamw,
        }
    }
}

/// The rule by which gradients become updates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// `AdamW` with moments of 32 bits.
    AdamW,
    /// `AdamW` with moments of 8 bits, Dettmers et al. 2021, arXiv:2110.02861.
    AdamW8bit {
        /// Weights with fewer numbers keep moments of 32 bits.
        min_8bit_size: usize,
    },
    /// Adafactor, Shazeer and Stern 2018, arXiv:1804.04235, as in transformers.
    Adafactor(Adafactor),
    /// Lion, Chen et al. 2023, arXiv:2302.06675.
    Lion,
    /// Lion with a momentum of 8 bits.
    Lion8bit {
        /// Weights with fewer numbers keep a momentum of 32 bits.
        min_8bit_size: usize,
    },
    /// Muon, Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon>, for the matrices of
    /// blocks; `AdamW` for all other weights.
    Muon(Muon),
    /// Schedule-free `AdamW`, Defazio et al. 2024, arXiv:2405.15682.
    ScheduleFree,
}

/// Adafactor's own hyperparameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adafactor {
    /// Decay of the momentum; `None`: there is no momentum.
    pub beta1: Option<f64>,
    /// A negative exponent: the means of squares decay by 1 - t to this power.
    pub decay_rate: f64,
    /// The largest root mean square of a weight's update.
    pub clip_threshold: f64,
    /// Whether the learning rate is multiplied by the weight's root mean square.
    pub scale_parameter: bool,
    /// Whether the learning rate depends on the number of updates.
    pub relative_step: bool,
    /// Whether that learning rate begins low.
    pub warmup_init: bool,
}

/// Muon's own hyperparameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Decay of the momentum.
    pub momentum: f64,
    /// How the learning rate depends on a matrix's shape.
    pub adjust_lr: AdjustLr,
}

pub use crate::terms::AdjustLr;

/// The kind of a weight's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StateKind {
    /// Two moments.
    Adam,
    /// Two moments in codes.
    Adam8bit,
    /// A momentum.
    Lion,
    /// A momentum in codes.
    Lion8bit,
    /// Means of squares by rows and columns, or of each number of a vector.
    Adafactor,
    /// A momentum of a matrix.
    Muon,
    /// The fast sequence and the second moment.
    ScheduleFree,
}

impl Rule {
    /// Returns the kind of state for a weight of this shape; `is_table` marks weights of the
    /// embedding or the head.
    pub(super) fn kind(self, shape: &[usize], is_table: bool) -> StateKind {
        let count: usize = shape.iter().product();
        match self {
            Self::AdamW8bit { min_8bit_size } if count >= min_8bit_size => StateKind::Adam8bit,
            Self::Lion8bit { min_8bit_size } if count >= min_8bit_size => StateKind::Lion8bit,
            Self::Lion | Self::Lion8bit { .. } => StateKind::Lion,
            Self::Adafactor(_) => StateKind::Adafactor,
            Self::Muon(_) if shape.len() == 2 && !is_table => StateKind::Muon,
            Self::AdamW | Self::AdamW8bit { .. } | Self::Muon(_) => StateKind::Adam,
            Self::ScheduleFree => StateKind::ScheduleFree,
        }
    }

    /// Returns the bytes of the state of a weight of this shape.
    pub fn state_bytes(self, shape: &[usize], is_table: bool) -> u64 {
        let count: usize = shape.iter().product();
        let in_codes = count + 4 * count.div_ceil(STATE_BLOCK);
        let bytes = match self.kind(shape, is_table) {
            StateKind::Adam | StateKind::ScheduleFree => 8 * count,
            StateKind::Adam8bit => 2 * in_codes,
            StateKind::Lion | StateKind::Muon => 4 * count,
            StateKind::Lion8bit => in_codes,
            StateKind::Adafactor => {
                let squares = if let [rows, columns] = shape {
                    rows + columns
                } else {
                    count
                };
                let has_momentum =
                    matches!(self, Self::Adafactor(Adafactor { beta1: Some(_), .. }));
                4 * (squares + if has_momentum { count } else { 0 })
            }
        };
        bytes as u64
    }

    /// Whether the weights to score and save are an average beside those at which gradients are
    /// taken.
    pub fn averages(self) -> bool {
        self == Self::ScheduleFree
    }
}
