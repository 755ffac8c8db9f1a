//! Kahneman-Tversky optimization, Ethayarajh et al. 2024, arXiv:2402.01306. A row is a completion
//! that is desirable or not, with log-ratio r = log p - log p of the reference. With the reference
//! point z, which is at least 0 and has no gradient, a desirable row loses w (1 - σ(beta (r - z)))
//! and an undesirable one w σ(beta (r - z)); the loss is the mean over the rows of a step.
//!
//! z is the mean log-ratio over the step of completions that belong to other prompts.

use super::figures::{Figures, KL, LOG_P, REWARDS};
use super::scalar::sigmoid;
use super::{Judged, StepStatistics};
use crate::terms::{KtoLoss, Readings, Slopes, Unit, UnitKind};

/// Settings of KTO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kto {
    /// Whether there is a reference point: `apo_zero_unpaired` has z = 0.
    pub loss_type: KtoLoss,
    /// The factor of log-ratios; above 0.
    pub beta: f64,
    /// The weight of desirable rows.
    pub desirable_weight: f64,
    /// The weight of undesirable rows.
    pub undesirable_weight: f64,
}

impl Kto {
    /// Returns the loss of a row with a log-ratio, and its derivative by the log-ratio.
    fn loss(&self, desirable: bool, log_ratio: f64, z: f64) -> (f64, f64) {
        let value = sigmoid(self.beta * (log_ratio - z));
        let slope = self.beta * value * sigmoid(-self.beta * (log_ratio - z));
        if desirable {
            let weight = self.desirable_weight;
            (weight * (1.0 - value), -weight * slope)
        } else {
            let weight = self.undesirable_weight;
            (weight * value, weight * slope)
        }
    }

    /// Judges rows, given the reference point of the step.
    pub(super) fn judge(
        &self,
        readings: &Readings,
        units: &[Unit],
        step: &StepStatistics,
    ) -> Judged {
        let mut slopes = vec![0_f32; readings.values.len()];
        let (mut loss_sum, mut rows, mut figures) = (0.0, 0.0, Figures::default());
        for (unit, log_p, log_ratio) in log_ratios(readings, units) {
            let UnitKind::Rated { desirable, .. } = unit.kind else {
                continue;
            };
            let (loss, slope) = self.loss(desirable, log_ratio, step.kl);
            loss_sum += loss;
            rows += 1.0;
            slopes[unit.targets.clone()].fill(slope as f32);
            let half = usize::from(!desirable);
            figures.add(REWARDS[half], self.beta * log_ratio);
            figures.add(LOG_P[half], log_p);
            figures.add(KL, step.kl);
        }
        Judged {
            loss_sum,
            weight: rows,
            slopes: Slopes::Each(slopes),
            figures,
        }
    }
}

/// Returns each row with a label, its log-probability and its log-ratio.
fn log_ratios<'a>(
    readings: &'a Readings,
    units: &'a [Unit],
) -> impl Iterator<Item = (&'a Unit, f64, f64)> {
    units.iter().filter_map(|unit| match unit.kind {
        UnitKind::Rated { reference, .. } => {
            let values = &readings.values[unit.targets.clone()];
            let log_p: f64 = values.iter().copied().map(f64::from).sum();
            Some((unit, log_p, log_p - reference))
        }
        _ => None,
    })
}

/// Returns the sum of the log-ratios of rows.
pub(super) fn sum_of_log_ratios(readings: &Readings, units: &[Unit]) -> f64 {
    log_ratios(readings, units).map(|(_, _, ratio)| ratio).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kto() -> Kto {
        Kto {
            loss_type: KtoLoss::Kto,
            beta: 0.3,
            desirable_weight: 1.5,
            undesirable_weight: 0.75,
        }
    }

    #[test]
    fn slopes_are_derivatives_with_a_constant_reference_point() {
        for desirable in [true, false] {
            for (log_ratio, z) in [(-4.0, 0.0), (0.0, 0.7), (2.5, 1.1), (60.0, 0.0)] {
                let at = |ratio: f64| kto().loss(desirable, ratio, z).0;
                let expected = (at(log_ratio + 1e-5) - at(log_ratio - 1e-5)) / 2e-5;
                let (_, slope) = kto().loss(desirable, log_ratio, z);
                assert!((slope - expected).abs() < 1e-8, "{slope}, not {expected}");
            }
        }
    }

    #[test]
    fn rows_of_one_kind_have_no_figure_of_the_other() {
        let unit = |targets: std::ops::Range<usize>| Unit {
            targets,
            kind: UnitKind::Rated {
                desirable: true,
                reference: -3.0,
            },
        };
        let readings = Readings::of_values(vec![-1.0, -2.0, -5.0]);
        let step = StepStatistics {
            units: 2,
            ..StepStatistics::default()
        };
        let judged = kto().judge(&readings, &[unit(0..2), unit(2..3)], &step);
        // Log-ratios 0 and -2, weight 1.5.
        let expected = 1.5 * (0.5 + 1.0 - sigmoid(-0.6));
        assert!((judged.loss_sum - expected).abs() < 1e-12);
        let means = judged.figures.means();
        assert!((means[REWARDS[0]] + 0.3).abs() < 1e-12 && !means.contains_key(REWARDS[1]));
        assert!(!means.contains_key("rewards/margins"), "{means:?}");
        assert!((sum_of_log_ratios(&readings, &[unit(0..2), unit(2..3)]) + 2.0).abs() < 1e-12);
    }
}
