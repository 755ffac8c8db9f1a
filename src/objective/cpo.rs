//! Preference losses without a reference: CPO, Xu et al. 2024, arXiv:2401.08417, and `SimPO`, Meng
//! et al. 2024, arXiv:2405.14734, with `AlphaPO`'s rewards, Gupta et al. 2025, arXiv:2501.03884.

use super::pair::{Completion, PairLoss};
use super::scalar::{sigmoid, softplus};
use crate::terms::CpoLoss;

/// Settings of CPO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpo {
    /// The loss of a pair.
    pub loss_type: CpoLoss,
    /// The factor of log-probabilities; above 0.
    pub beta: f64,
    /// The assumed share of pairs whose labels are swapped, below 0.5.
    pub label_smoothing: f64,
    /// The weight of the cross-entropy of the chosen completions; 0 for none.
    pub cpo_alpha: f64,
}

/// Settings of `SimPO`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Simpo {
    /// The factor of mean log-probabilities; above 0.
    pub beta: f64,
    /// The margin between the rewards. It is not multiplied by beta.
    pub gamma: f64,
    /// The assumed share of pairs whose labels are swapped, below 0.5.
    pub label_smoothing: f64,
    /// The weight of the cross-entropy of the chosen completions; 0 for none.
    pub cpo_alpha: f64,
    /// `AlphaPO`'s exponent: the reward is (1 - e^(-alpha m)) / alpha of the mean log-probability
    /// m; 0 for m itself.
    pub alpha: f64,
}

/// Returns the smoothed logistic loss of a margin and its derivative.
fn logistic(margin: f64, smoothing: f64) -> (f64, f64) {
    (
        (1.0 - smoothing) * softplus(-margin) + smoothing * softplus(margin),
        smoothing * sigmoid(margin) - (1.0 - smoothing) * sigmoid(-margin),
    )
}

impl Cpo {
    /// Returns the loss of a chosen and a rejected completion.
    pub(super) fn loss(&self, pair: [Completion; 2]) -> PairLoss {
        let [chosen, rejected] = pair;
        let is_mean = self.loss_type == CpoLoss::Ipo;
        let log_p = pair.map(|of| if is_mean { of.mean() } else { of.log_p });
        let rewards = log_p.map(|log_p| self.beta * log_p);
        let margin = rewards[0] - rewards[1];
        let (value, slope) = match self.loss_type {
            CpoLoss::Sigmoid => logistic(margin, self.label_smoothing),
            CpoLoss::Hinge => (
                (1.0 - margin).max(0.0),
                if margin < 1.0 { -1.0 } else { 0.0 },
            ),
            CpoLoss::Ipo => {
                let off = log_p[0] - log_p[1] - 0.5 / self.beta;
                (off * off, 2.0 * off / self.beta)
            }
        };
        let slope = self.beta * slope;
        let slopes = if is_mean {
            [slope / chosen.tokens, -slope / rejected.tokens]
        } else {
            [slope, -slope]
        };
        PairLoss {
            value,
            slopes,
            rewards,
            log_p,
            figures: Vec::new(),
        }
    }
}

impl Simpo {
    /// Returns the loss of a chosen and a rejected completion.
    pub(super) fn loss(&self, pair: [Completion; 2]) -> PairLoss {
        let shaped = pair.map(|of| self.shaped(of.mean()));
        let scores = shaped.map(|(score, _)| score);
        let margin = self.beta * (scores[0] - scores[1]) - self.gamma;
        let (value, slope) = logistic(margin, self.label_smoothing);
        let by = |half: usize| self.beta * slope * shaped[half].1 / pair[half].tokens;
        PairLoss {
            value,
            slopes: [by(0), -by(1)],
            rewards: scores.map(|score| self.beta * score),
            log_p: pair.map(|of| of.mean()),
            figures: Vec::new(),
        }
    }

    /// Returns the score of a mean log-probability, and its derivative.
    fn shaped(&self, mean: f64) -> (f64, f64) {
        if self.alpha == 0.0 {
            return (mean, 1.0);
        }
        let exponent = -self.alpha * mean;
        (-exponent.exp_m1() / self.alpha, exponent.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pair::tests::{check_slopes, completion};
    use super::*;
    use crate::terms::Term;

    #[test]
    fn slopes_are_derivatives() {
        for (word, loss_type) in CpoLoss::WORDS {
            let cpo = Cpo {
                loss_type: *loss_type,
                beta: 0.3,
                label_smoothing: 0.1,
                cpo_alpha: 0.0,
            };
            check_slopes(word, |pair| cpo.loss(pair));
        }
        for alpha in [0.0, 0.25, -0.1] {
            check_slopes("simpo", |pair| simpo(alpha).loss(pair));
        }
    }

    fn simpo(alpha: f64) -> Simpo {
        Simpo {
            beta: 2.0,
            gamma: 0.5,
            label_smoothing: 0.05,
            cpo_alpha: 0.0,
            alpha,
        }
    }

    #[test]
    fn gamma_is_a_margin_of_rewards() {
        // Mean log-probabilities -1 and -1.25: rewards -2 and -2.5, which are gamma apart.
        let pair = [completion(-2.0, 0.0, 2.0), completion(-5.0, 0.0, 4.0)];
        let plain = Simpo {
            label_smoothing: 0.0,
            ..simpo(0.0)
        };
        assert!((plain.loss(pair).value - 2_f64.ln()).abs() < 1e-15);
    }
}
