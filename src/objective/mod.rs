//! The objectives that training minimizes. An objective takes the readings of a micro-batch and
//! gives a loss and its derivative by each reading. These are numbers without tensors, so that a
//! test can compare them with a closed form.
//!
//! Losses of pairs and of completions with labels are means over the units of an optimizer step. A
//! few of them depend on numbers of the whole step, [`StepStatistics`], which are known before its
//! first backward, so that micro-batches of any size give the same result.

mod class_scores;
mod classify;
mod contrastive;
mod cpo;
mod distill;
mod dpo;
mod figures;
mod kto;
mod next_token;
mod orpo;
mod pair;
mod ranking;
mod reward;
mod scalar;

pub use class_scores::{ClassScores, ClassTable};
pub use classify::{Classify, argmax};
pub use contrastive::Contrastive;
pub use cpo::{Cpo, Simpo};
pub use distill::{Distill, Sparse};
pub use dpo::Dpo;
pub use figures::Figures;
pub use kto::Kto;
pub use next_token::NextToken;
pub use orpo::Orpo;
pub use ranking::ranking;
pub use reward::Reward;

use crate::terms::{KtoLoss, Readings, Slopes, Unit};

/// A loss to minimize.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// Cross-entropy of the trained tokens.
    NextToken(NextToken),
    /// Preferences against a reference.
    Dpo(Dpo),
    /// Preferences without a reference.
    Cpo(Cpo),
    /// Preferences of mean log-probabilities.
    Simpo(Simpo),
    /// Cross-entropy with an odds ratio of preferences.
    Orpo(Orpo),
    /// Completions with labels against a reference.
    Kto(Kto),
    /// The divergence from a teacher.
    Distill(Distill),
    /// Vectors of texts that belong together.
    Contrastive(Contrastive),
    /// Scores of pairs.
    Reward(Reward),
    /// Scores of texts or tokens with labels.
    Classify(Classify),
    /// Cross-entropy with a weight for each row, so that slopes differ and are known only after
    /// reading.
    #[cfg(test)]
    WeightedRows(Vec<f32>),
}

/// Numbers of all units of an optimizer step, or of all units that are scored.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepStatistics {
    /// Number of units.
    pub units: u64,
    /// Targets of chosen sequences.
    pub supervised_targets: u64,
    /// KTO's reference point, nats.
    pub kl: f64,
}

/// The loss and the slopes of some readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Sum of losses, nats.
    pub loss_sum: f64,
    /// The divisor of the sum, to be added up over all micro-batches of a step.
    pub weight: f64,
    /// Derivative of the sum by each reading.
    pub slopes: Slopes,
    /// Figures beside the loss.
    pub figures: Figures,
}

impl Objective {
    /// Returns the slopes of a micro-batch with these units where they do not depend on the
    /// readings: reading and backward may then be one pass.
    pub fn slopes_ahead(&self, units: &[Unit]) -> Option<Slopes> {
        match self {
            Self::NextToken(sft) => sft.slopes_ahead(units),
            _ => None,
        }
    }

    /// Returns the share of a label that all tokens of the vocabulary get, for which readings have
    /// means.
    pub fn smoothed_share(&self) -> f64 {
        match self {
            Self::NextToken(sft) => sft.label_smoothing,
            _ => 0.0,
        }
    }

    /// Returns alpha of the noise on embeddings in training; 0: none.
    pub fn noise_alpha(&self) -> f64 {
        match self {
            Self::NextToken(sft) => sft.neftune_noise_alpha,
            _ => 0.0,
        }
    }

    /// Whether losses are means over units rather than over tokens, so that [`StepStatistics`] are
    /// needed.
    pub fn is_of_units(&self) -> bool {
        matches!(
            self,
            Self::Dpo(_) | Self::Cpo(_) | Self::Simpo(_) | Self::Orpo(_) | Self::Kto(_)
        ) || self.labels().is_some()
    }

    /// Returns the number of scores of each target where a score head is read; `None` where the
    /// vocabulary's head is.
    pub fn labels(&self) -> Option<usize> {
        match self {
            Self::Reward(_) => Some(1),
            Self::Classify(classify) => Some(classify.labels),
            _ => None,
        }
    }

    /// Whether the prompt of a chosen sequence is read too.
    pub fn reads_prompts(&self) -> bool {
        matches!(self, Self::Orpo(_))
    }

    /// Whether rows are also read with completions of other rows.
    pub fn reads_mismatched(&self) -> bool {
        matches!(self, Self::Kto(kto) if kto.loss_type == KtoLoss::Kto)
    }

    /// Whether the loss compares with a reference.
    pub fn has_reference(&self) -> bool {
        matches!(self, Self::Dpo(_) | Self::Kto(_))
    }

    /// Returns the comparison with a teacher, where the loss is one.
    pub fn distill(&self) -> Option<&Distill> {
        match self {
            Self::Distill(distill) => Some(distill),
            _ => None,
        }
    }

    /// Returns the loss where the policy is the reference; `None` where it depends on more.
    pub fn loss_at_reference(&self) -> Option<f64> {
        match self {
            Self::Dpo(dpo) => dpo.loss_at_reference(),
            _ => None,
        }
    }

    /// Returns the loss of a micro-batch whose targets belong to these units.
    pub fn judge(&self, readings: &Readings, units: &[Unit], step: &StepStatistics) -> Judged {
        let weight = |weight: f64| (weight > 0.0).then_some(weight);
        match self {
            Self::NextToken(sft) => sft.judge(readings, units),
            Self::Distill(distill) => distill.judge(readings),
            Self::Dpo(dpo) => {
                let nll = weight(dpo.sft_weight);
                pair::judge(readings, units, step, nll, |pair| dpo.loss(pair))
            }
            Self::Cpo(cpo) => {
                let nll = weight(cpo.cpo_alpha);
                pair::judge(readings, units, step, nll, |pair| cpo.loss(pair))
            }
            Self::Simpo(simpo) => {
                let nll = weight(simpo.cpo_alpha);
                pair::judge(readings, units, step, nll, |pair| simpo.loss(pair))
            }
            Self::Orpo(orpo) => {
                pair::judge(readings, units, step, Some(1.0), |pair| orpo.loss(pair))
            }
            Self::Kto(kto) => kto.judge(readings, units, step),
            // Of the vectors of a whole step.
            Self::Contrastive(contrastive) => contrastive.judge(&readings.values, units),
            Self::Reward(reward) => reward.judge(readings, units),
            Self::Classify(classify) => classify.judge(readings, units),
            #[cfg(test)]
            Self::WeightedRows(weights) => {
                let of_targets = units
                    .iter()
                    .zip(weights)
                    .flat_map(|(unit, weight)| unit.targets.clone().map(|_| *weight));
                let weights: Vec<f32> = of_targets.collect();
                let losses = readings
                    .values
                    .iter()
                    .zip(&weights)
                    .map(|(log_p, weight)| f64::from(-log_p * weight));
                let slopes = Slopes::Each(weights.iter().map(|weight| -weight).collect());
                Judged {
                    loss_sum: losses.sum(),
                    weight: weights.len() as f64,
                    slopes,
                    figures: Figures::default(),
                }
            }
        }
    }

    /// Returns the sum of log-ratios of completions that belong to other prompts, whose mean over a
    /// step is KTO's reference point where it is above 0.
    pub fn mismatched_log_ratios(readings: &Readings, units: &[Unit]) -> f64 {
        kto::sum_of_log_ratios(readings, units)
    }
}
