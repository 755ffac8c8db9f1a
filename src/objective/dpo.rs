//! Direct preference optimization, Rafailov et al. 2023, arXiv:2305.18290, and its variants. A
//! completion's log-ratio r is log p - log p of the reference, its reward is beta r.

use super::pair::{Completion, PairLoss};
use super::scalar::{sigmoid, softplus};
use crate::terms::{DpoLoss, FDivergence};

/// Settings of DPO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// The loss of a pair.
    pub loss_type: DpoLoss,
    /// The factor of log-ratios; above 0.
    pub beta: f64,
    /// The assumed share of pairs whose labels are swapped, below 0.5.
    pub label_smoothing: f64,
    /// The temperature of `discopop`; above 0.
    pub discopop_tau: f64,
    /// The divergence from the reference, of losses that have one.
    pub divergence: FDivergence,
    /// The a of `alpha_divergence`; not 1.
    pub alpha: f64,
    /// The weight of the cross-entropy of the chosen completions, Liu et al. 2024,
    /// arXiv:2404.19733; 0 for none.
    pub sft_weight: f64,
}

/// The highest exponent of a score, as in TRL: e⁸⁰ is still a number in 32 bits.
const MAX_EXPONENT: f64 = 80.0;

impl Dpo {
    /// Returns the loss of a chosen and a rejected completion.
    pub(super) fn loss(&self, pair: [Completion; 2]) -> PairLoss {
        let [chosen, rejected] = pair;
        let rewards = pair.map(|of| self.beta * of.log_ratio());
        let [(score, of_score), (other, of_other)] = pair.map(|of| self.score(of.log_ratio()));
        let margin = self.beta * (score - other);
        // A loss of the margin, by its derivative there.
        let of_margin = |value: f64, slope: f64| {
            let slope = self.beta * slope;
            (value, [slope * of_score, -slope * of_other])
        };
        let of_means = |slope: f64| {
            let (of_chosen, of_rejected) = (of_score / chosen.tokens, of_other / rejected.tokens);
            [slope * of_chosen, -slope * of_rejected]
        };
        let of_rewards = |value: f64, slopes: [f64; 2]| (value, slopes.map(|s| self.beta * s));
        let e = self.label_smoothing;
        let (value, slopes) = match self.loss_type {
            DpoLoss::Sigmoid => of_margin(
                (1.0 - e) * softplus(-margin) + e * softplus(margin),
                e * sigmoid(margin) - (1.0 - e) * sigmoid(-margin),
            ),
            DpoLoss::Robust => of_margin(
                ((1.0 - e) * softplus(-margin) - e * softplus(margin)) / (1.0 - 2.0 * e),
                (-(1.0 - e) * sigmoid(-margin) - e * sigmoid(margin)) / (1.0 - 2.0 * e),
            ),
            DpoLoss::Hinge => of_margin(
                (1.0 - margin).max(0.0),
                if margin < 1.0 { -1.0 } else { 0.0 },
            ),
            DpoLoss::Ipo => {
                let off = score / chosen.tokens - other / rejected.tokens - 0.5 / self.beta;
                (off * off, of_means(2.0 * off))
            }
            DpoLoss::SigmoidNorm => {
                let margin = self.beta * (score / chosen.tokens - other / rejected.tokens);
                (softplus(-margin), of_means(-self.beta * sigmoid(-margin)))
            }
            DpoLoss::ExoPair => {
                let (p, log_odds) = (sigmoid(margin), ((1.0 - e) / e).ln());
                let value = p * (-softplus(-margin) - (1.0 - e).ln())
                    + (1.0 - p) * (-softplus(margin) - e.ln());
                of_margin(value, p * sigmoid(-margin) * (margin - log_odds))
            }
            DpoLoss::NcaPair => of_rewards(
                softplus(-rewards[0]) + 0.5 * (softplus(rewards[0]) + softplus(rewards[1])),
                [
                    0.5 * sigmoid(rewards[0]) - sigmoid(-rewards[0]),
                    0.5 * sigmoid(rewards[1]),
                ],
            ),
            DpoLoss::BcoPair => of_rewards(
                softplus(-rewards[0]) + softplus(rewards[1]),
                [-sigmoid(-rewards[0]), sigmoid(rewards[1])],
            ),
            DpoLoss::SppoHard => {
                let off = [
                    chosen.log_ratio() - 0.5 / self.beta,
                    rejected.log_ratio() + 0.5 / self.beta,
                ];
                (off[0] * off[0] + off[1] * off[1], off.map(|off| 2.0 * off))
            }
            DpoLoss::ApoZero => of_rewards(
                sigmoid(-rewards[0]) + sigmoid(rewards[1]),
                [-bump(rewards[0]), bump(rewards[1])],
            ),
            DpoLoss::ApoDown => {
                let margin = rewards[0] - rewards[1];
                of_rewards(
                    sigmoid(rewards[0]) + sigmoid(-margin),
                    [bump(rewards[0]) - bump(margin), bump(margin)],
                )
            }
            DpoLoss::Discopop => {
                let share = sigmoid(margin / self.discopop_tau);
                let of_share = bump(margin / self.discopop_tau) / self.discopop_tau;
                let (logistic, exponential) = (softplus(-margin), (-margin).exp());
                of_margin(
                    logistic * (1.0 - share) + exponential * share,
                    (exponential - logistic) * of_share
                        - sigmoid(-margin) * (1.0 - share)
                        - exponential * share,
                )
            }
        };
        PairLoss {
            value,
            slopes,
            rewards,
            log_p: pair.map(|of| of.log_p),
            figures: Vec::new(),
        }
    }

    /// Returns the score of a completion with a log-ratio, and its derivative by the log-ratio.
    fn score(&self, ratio: f64) -> (f64, f64) {
        match self.divergence {
            FDivergence::ReverseKl => (ratio, 1.0),
            FDivergence::ForwardKl => {
                let power = (-ratio).min(MAX_EXPONENT).exp();
                (1.0 - power, if -ratio < MAX_EXPONENT { power } else { 0.0 })
            }
            FDivergence::JsDivergence => {
                let score = std::f64::consts::LN_2 - softplus(-ratio);
                (score, sigmoid(-ratio))
            }
            FDivergence::AlphaDivergence => {
                let factor = self.alpha - 1.0;
                let exponent = factor * ratio;
                let power = exponent.min(MAX_EXPONENT).exp();
                let slope = if exponent < MAX_EXPONENT { power } else { 0.0 };
                ((power - 1.0) / factor, slope)
            }
        }
    }

    /// Returns the loss of a pair where the policy is the reference; `None` where it depends on
    /// more than log-ratios. It is log 2 for `sigmoid`.
    pub(super) fn loss_at_reference(&self) -> Option<f64> {
        let same = Completion {
            log_p: 0.0,
            reference: 0.0,
            tokens: 1.0,
        };
        (self.sft_weight == 0.0).then(|| self.loss([same; 2]).value)
    }
}

/// Returns σ(x) σ(-x), the derivative of σ.
fn bump(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

#[cfg(test)]
mod tests {
    use super::super::pair::tests::{check_slopes, completion};
    use super::*;
    use crate::terms::Term;

    fn dpo(loss_type: DpoLoss) -> Dpo {
        Dpo {
            loss_type,
            beta: 0.3,
            label_smoothing: 0.1,
            discopop_tau: 0.05,
            divergence: FDivergence::ReverseKl,
            alpha: 0.5,
            sft_weight: 0.0,
        }
    }

    #[test]
    fn slopes_are_derivatives() {
        for (word, loss_type) in DpoLoss::WORDS {
            for (divergence, kind) in FDivergence::WORDS {
                let dpo = Dpo {
                    divergence: *kind,
                    ..dpo(*loss_type)
                };
                check_slopes(&format!("{word}, {divergence}"), |pair| dpo.loss(pair));
            }
        }
    }

    /// Values by hand at beta 0.5 with log-ratios 1 and -1 and tokens 2 and 4.
    #[test]
    fn losses_are_those_of_the_papers() {
        let pair = [completion(-3.0, -4.0, 2.0), completion(-6.0, -5.0, 4.0)];
        let of = |loss_type: DpoLoss| {
            let dpo = Dpo {
                beta: 0.5,
                label_smoothing: 0.0,
                ..dpo(loss_type)
            };
            dpo.loss(pair).value
        };
        // The margin is 1.
        let (log_sigmoid, half) = (-0.313_261_687_518_222_8, 0.5_f64);
        for (loss_type, expected) in [
            (DpoLoss::Sigmoid, -log_sigmoid),
            (DpoLoss::Robust, -log_sigmoid),
            (DpoLoss::Hinge, 0.0),
            (DpoLoss::Ipo, (0.75_f64 - 1.0).powi(2)),
            (DpoLoss::SigmoidNorm, (1.0 + (-0.375_f64).exp()).ln()),
            (DpoLoss::SppoHard, 0.0),
            (DpoLoss::ApoZero, 2.0 / (1.0 + half.exp())),
            (DpoLoss::BcoPair, 2.0 * (1.0 + (-half).exp()).ln()),
        ] {
            let found = of(loss_type);
            assert!(
                (found - expected).abs() < 1e-12,
                "{loss_type}: {found}, not {expected}"
            );
        }
    }

    #[test]
    fn where_the_policy_is_the_reference_the_loss_is_log_2() {
        let at = |loss_type| dpo(loss_type).loss_at_reference().expect("a value");
        for loss_type in [DpoLoss::Sigmoid, DpoLoss::Robust] {
            assert!((at(loss_type) - 2_f64.ln()).abs() < 1e-15, "{loss_type}");
        }
        assert!((at(DpoLoss::Hinge) - 1.0).abs() < 1e-15);
        let mixed = Dpo {
            sft_weight: 1.0,
            ..dpo(DpoLoss::Sigmoid)
        };
        assert_eq!(mixed.loss_at_reference(), None);
    }
}
