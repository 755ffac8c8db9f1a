//! Reward models: Bradley-Terry with a margin, Touvron et al. 2023, arXiv:2307.09288, eq. 2, and
//! rewards kept near 0, Eisenstein et al. 2023, arXiv:2312.09244. With the rewards R of a pair and
//! its margin m, the loss is `-log σ(R_chosen - R_rejected - m) + c (R_chosen + R_rejected)²`.

use super::Judged;
use super::figures::Figures;
use super::scalar::{sigmoid, softplus};
use crate::terms::{Readings, Slopes, Unit, UnitKind};

/// Settings of a reward model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reward {
    /// The factor c of the squared sum of both rewards; 0 for none.
    pub center_rewards_coefficient: f64,
}

impl Reward {
    /// Returns the loss of a pair's rewards and its derivative by each.
    fn loss(self, [chosen, rejected]: [f64; 2], margin: f64) -> (f64, [f64; 2]) {
        let (c, sum) = (self.center_rewards_coefficient, chosen + rejected);
        let ahead = chosen - rejected - margin;
        let value = softplus(-ahead) + c * sum * sum;
        let (slope, centering) = (-sigmoid(-ahead), 2.0 * c * sum);
        (value, [slope + centering, centering - slope])
    }

    /// Judges pairs of scores. The figures are those of TRL's `RewardTrainer`.
    pub(super) fn judge(self, readings: &Readings, units: &[Unit]) -> Judged {
        let mut slopes = vec![0_f32; readings.values.len()];
        let (mut loss_sum, mut pairs, mut figures) = (0.0, 0.0, Figures::default());
        for unit in units {
            let UnitKind::Compared { margin } = unit.kind else {
                continue;
            };
            let [chosen, rejected] =
                [0, 1].map(|half| f64::from(readings.values[unit.targets.start + half]));
            let (loss, of_pair) = self.loss([chosen, rejected], margin);
            loss_sum += loss;
            pairs += 1.0;
            for (slope, of_half) in slopes[unit.targets.clone()].iter_mut().zip(of_pair) {
                *slope = of_half as f32;
            }
            figures.add("accuracy", f64::from(u8::from(chosen > rejected)));
            figures.add("margin", chosen - rejected);
            figures.add_sum("mean_reward", chosen + rejected, 2.0);
            figures.add_least("min_reward", chosen.min(rejected));
            figures.add_most("max_reward", chosen.max(rejected));
        }
        Judged {
            loss_sum,
            weight: pairs,
            slopes: Slopes::Each(slopes),
            figures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_derivatives() {
        for c in [0.0, 0.01, 0.5] {
            let reward = Reward {
                center_rewards_coefficient: c,
            };
            for (rewards, margin) in [
                ([0.3, -0.7], 0.0),
                ([-1.5, 2.5], 1.25),
                ([40.0, -3.0], -0.5),
            ] {
                let (_, slopes) = reward.loss(rewards, margin);
                for half in 0..2 {
                    let at = |step: f64| {
                        let mut moved = rewards;
                        moved[half] += step;
                        reward.loss(moved, margin).0
                    };
                    let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                    assert!(
                        (slopes[half] - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                        "{c}, {rewards:?}: {}, not {expected}",
                        slopes[half]
                    );
                }
            }
        }
    }

    #[test]
    fn equal_rewards_lose_log_2_and_figures_are_of_all_pairs() {
        let reward = Reward {
            center_rewards_coefficient: 0.0,
        };
        assert!((reward.loss([0.5, 0.5], 0.0).0 - 2_f64.ln()).abs() < 1e-15);
        let readings = Readings::of_values(vec![1.0, -2.0, 0.25, 0.5]);
        let units = [0..2, 2..4].map(|targets| Unit {
            targets,
            kind: UnitKind::Compared { margin: 0.0 },
        });
        let [one, other] = units
            .each_ref()
            .map(|unit| reward.judge(&readings, std::slice::from_ref(unit)));
        let means = one.figures.and(other.figures).means();
        for (name, expected) in [
            ("accuracy", 0.5),
            ("margin", 1.375),
            ("mean_reward", -0.0625),
            ("min_reward", -2.0),
            ("max_reward", 1.0),
        ] {
            assert!((means[name] - expected).abs() < 1e-12, "{name}: {means:?}");
        }
    }
}
