//! What losses of pairs share: log-probabilities of both halves in, a loss and two slopes out. A
//! supervised loss of the chosen half may be mixed in.

use super::figures::{ACCURACIES, Figures, LOG_P, NLL, REWARDS};
use super::{Judged, StepStatistics};
use crate::terms::{Readings, Slopes, Unit, UnitKind};

/// A completion as a loss sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Completion {
    /// Its log-probability, the sum over its tokens, nats.
    pub log_p: f64,
    /// The same under the reference.
    pub reference: f64,
    /// Its tokens.
    pub tokens: f64,
}

impl Completion {
    /// Returns log p - log p of the reference.
    pub fn log_ratio(&self) -> f64 {
        self.log_p - self.reference
    }

    /// Returns the mean log-probability of a token.
    pub fn mean(&self) -> f64 {
        self.log_p / self.tokens
    }
}

/// The loss of a pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PairLoss {
    /// The loss.
    pub value: f64,
    /// Its derivative by the log-probability of the chosen and of the rejected completion.
    pub slopes: [f64; 2],
    /// The rewards of both, for the figures.
    pub rewards: [f64; 2],
    /// The log-probabilities of both as TRL reports them: sums, or means of tokens.
    pub log_p: [f64; 2],
    /// Further figures.
    pub figures: Vec<(&'static str, f64)>,
}

/// Judges pairs by `loss`, plus `nll_weight` times the mean cross-entropy of the chosen sequences'
/// targets over all such targets of the step. The sum of losses is over pairs; a pair's part of the
/// cross-entropy is scaled so that the mean over the step's pairs is that mean over tokens.
pub(super) fn judge(
    readings: &Readings,
    units: &[Unit],
    step: &StepStatistics,
    nll_weight: Option<f64>,
    loss: impl Fn([Completion; 2]) -> PairLoss,
) -> Judged {
    let mut slopes = vec![0_f32; readings.values.len()];
    let (mut loss_sum, mut pairs, mut figures) = (0.0, 0.0, Figures::default());
    let sum = |values: &[f32]| values.iter().copied().map(f64::from).sum::<f64>();
    for unit in units {
        let UnitKind::Pair {
            completion,
            rejected,
            reference,
        } = unit.kind
        else {
            continue;
        };
        let ranges = [completion..rejected, rejected..unit.targets.end];
        let read = |half: usize| {
            let values = &readings.values[ranges[half].clone()];
            Completion {
                log_p: sum(values),
                reference: reference[half],
                tokens: values.len() as f64,
            }
        };
        let of_pair = loss([read(0), read(1)]);
        loss_sum += of_pair.value;
        pairs += 1.0;
        for (range, slope) in ranges.into_iter().zip(of_pair.slopes) {
            slopes[range].fill(slope as f32);
        }
        if let Some(weight) = nll_weight {
            let chosen = unit.targets.start..rejected;
            let nll = -sum(&readings.values[chosen.clone()]);
            let factor = weight * step.units as f64 / step.supervised_targets as f64;
            loss_sum += factor * nll;
            for slope in &mut slopes[chosen.clone()] {
                *slope = (f64::from(*slope) - factor) as f32;
            }
            figures.add_sum(NLL, nll, chosen.len() as f64);
        }
        let [chosen, rejected] = of_pair.rewards;
        for half in 0..2 {
            figures.add(REWARDS[half], of_pair.rewards[half]);
            figures.add(LOG_P[half], of_pair.log_p[half]);
        }
        figures.add(ACCURACIES, f64::from(u8::from(chosen > rejected)));
        for (name, value) in of_pair.figures {
            figures.add(name, value);
        }
    }
    Judged {
        loss_sum,
        weight: pairs,
        slopes: Slopes::Each(slopes),
        figures,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a completion.
    pub(in super::super) fn completion(log_p: f64, reference: f64, tokens: f64) -> Completion {
        Completion {
            log_p,
            reference,
            tokens,
        }
    }

    /// Compares the slopes of a loss with central differences at several places.
    pub(in super::super) fn check_slopes(name: &str, loss: impl Fn([Completion; 2]) -> PairLoss) {
        let places = [
            [completion(-7.1, -6.3, 5.0), completion(-9.7, -8.2, 3.0)],
            [completion(-3.2, -8.9, 2.0), completion(-21.0, -17.5, 9.0)],
            [completion(-0.9, -0.4, 1.0), completion(-0.3, -0.8, 4.0)],
        ];
        for pair in places {
            let found = loss(pair).slopes;
            for half in 0..2 {
                let at = |step: f64| {
                    let mut moved = pair;
                    moved[half].log_p += step;
                    loss(moved).value
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (found[half] - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                    "{name}, half {half} of {pair:?}: {}, not {expected}",
                    found[half]
                );
            }
        }
    }

    #[test]
    fn cross_entropy_counts_once_a_token_of_the_step() {
        // Two pairs of a step with 3 and 1 supervised targets, judged one by one.
        let step = StepStatistics {
            units: 2,
            supervised_targets: 4,
            ..StepStatistics::default()
        };
        let unit = |chosen: usize, rejected: usize| Unit {
            targets: 0..chosen + rejected,
            kind: UnitKind::Pair {
                completion: 0,
                rejected: chosen,
                reference: [0.0; 2],
            },
        };
        let judged = |values: &[f32], chosen: usize| {
            let readings = Readings::of_values(values.to_vec());
            let units = [unit(chosen, values.len() - chosen)];
            judge(&readings, &units, &step, Some(0.5), |_| PairLoss::default())
        };
        let (one, other) = (
            judged(&[-1.0, -2.0, -3.0, -9.0], 3),
            judged(&[-4.0, -9.0], 1),
        );
        let mean = (one.loss_sum + other.loss_sum) / (one.weight + other.weight);
        assert!((mean - 0.5 * 10.0 / 4.0).abs() < 1e-12, "{mean}");
        // The slope of the mean by each token is -0.5 / 4, once divided by two pairs.
        assert_eq!(one.slopes, Slopes::Each(vec![-0.25, -0.25, -0.25, 0.0]));
        let nll = one.figures.and(other.figures).means()[NLL];
        assert!((nll - 2.5).abs() < 1e-12, "{nll}");
    }
}
