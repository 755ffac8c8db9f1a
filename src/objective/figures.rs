//! Figures of an objective beside its loss: means over the units of a step, or extremes of them,
//! under TRL's names.

use std::collections::BTreeMap;

/// Sums with their weights, and extremes, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    sums: BTreeMap<&'static str, [f64; 2]>,
    least: BTreeMap<&'static str, f64>,
    most: BTreeMap<&'static str, f64>,
}

impl Figures {
    /// Adds a value with weight 1.
    pub(super) fn add(&mut self, name: &'static str, value: f64) {
        self.add_sum(name, value, 1.0);
    }

    /// Adds a sum of values and the sum of their weights.
    pub(super) fn add_sum(&mut self, name: &'static str, sum: f64, weight: f64) {
        let [all, weights] = self.sums.entry(name).or_default();
        *all += sum;
        *weights += weight;
    }

    /// Adds a value of which the least counts.
    pub(super) fn add_least(&mut self, name: &'static str, value: f64) {
        let least = self.least.entry(name).or_insert(value);
        *least = least.min(value);
    }

    /// Adds a value of which the highest counts.
    pub(super) fn add_most(&mut self, name: &'static str, value: f64) {
        let most = self.most.entry(name).or_insert(value);
        *most = most.max(value);
    }

    /// Joins the figures of two micro-batches.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (name, [sum, weight]) in other.sums {
            self.add_sum(name, sum, weight);
        }
        for (name, value) in other.least {
            self.add_least(name, value);
        }
        for (name, value) in other.most {
            self.add_most(name, value);
        }
        self
    }

    /// Returns the means and extremes by name. Of completions with labels the margin is the
    /// difference of the two means, as in TRL.
    pub fn means(&self) -> BTreeMap<String, f64> {
        let means = self
            .sums
            .iter()
            .map(|(name, [sum, weight])| (*name, sum / weight));
        let extremes = self.least.iter().chain(&self.most);
        let mut means: BTreeMap<String, f64> = means
            .chain(extremes.map(|(name, value)| (*name, *value)))
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if let (Some(chosen), Some(rejected)) = (
            means.get(REWARDS[0]).copied(),
            means.get(REWARDS[1]).copied(),
        ) {
            means.insert(MARGINS.to_owned(), chosen - rejected);
        }
        means
    }
}

/// Mean rewards of the chosen and of the rejected completions.
pub(super) const REWARDS: [&str; 2] = ["rewards/chosen", "rewards/rejected"];
/// Mean log-probabilities of the chosen and of the rejected completions, nats.
pub(super) const LOG_P: [&str; 2] = ["logps/chosen", "logps/rejected"];
/// Mean difference of the rewards.
pub(super) const MARGINS: &str = "rewards/margins";
/// Share of pairs whose chosen completion has the higher reward.
pub(super) const ACCURACIES: &str = "rewards/accuracies";
/// Mean cross-entropy of the chosen sequences, or of all trained tokens, nats per token.
pub(super) const NLL: &str = "nll_loss";
/// Mean divergence from a teacher, nats per token.
pub(super) const DIVERGENCE: &str = "divergence";
/// KTO's estimate of the divergence from the reference, nats.
pub(super) const KL: &str = "kl";
/// ORPO's log σ of the log-odds ratio, and the ratio.
pub(super) const LOG_ODDS: [&str; 2] = ["log_odds_ratio", "log_odds_chosen"];
