//! Odds ratio preference optimization, Hong et al. 2024, arXiv:2403.07691: cross-entropy of prompt
//! and chosen completion, plus beta times -log σ of the log-odds ratio of the mean probabilities of
//! a token.

use super::figures::LOG_ODDS;
use super::pair::{Completion, PairLoss};
use super::scalar::{log_one_minus_exp, sigmoid, softplus};

/// Highest mean log-probability for which odds are taken: the odds of 1 are infinite.
const MOST_LIKELY: f64 = -1e-6;

/// Settings of ORPO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Orpo {
    /// The weight of the odds ratio; at least 0.
    pub beta: f64,
}

impl Orpo {
    /// Returns the odds-ratio loss of a chosen and a rejected completion.
    pub(super) fn loss(self, pair: [Completion; 2]) -> PairLoss {
        let means = pair.map(|of| of.mean().min(MOST_LIKELY));
        let odds = means.map(|mean| mean - log_one_minus_exp(mean));
        let ratio = odds[0] - odds[1];
        // The derivative of log-odds by the mean is 1 / (1 - p).
        let by = |half: usize| {
            -self.beta * sigmoid(-ratio) / (-means[half].exp_m1()) / pair[half].tokens
        };
        PairLoss {
            value: self.beta * softplus(-ratio),
            slopes: [by(0), -by(1)],
            rewards: pair.map(|of| self.beta * of.mean()),
            log_p: pair.map(|of| of.mean()),
            figures: vec![(LOG_ODDS[0], -softplus(-ratio)), (LOG_ODDS[1], ratio)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pair::tests::{check_slopes, completion};
    use super::*;

    #[test]
    fn slopes_are_derivatives() {
        check_slopes("orpo", |pair| Orpo { beta: 0.4 }.loss(pair));
    }

    #[test]
    fn a_certain_completion_has_a_finite_loss() {
        for [chosen, rejected] in [[0.0, -3.0], [-3.0, 0.0], [0.0, 0.0], [-1e-9, -900.0]] {
            let pair = [completion(chosen, 0.0, 3.0), completion(rejected, 0.0, 2.0)];
            let loss = Orpo { beta: 1.0 }.loss(pair);
            assert!(
                loss.value.is_finite() && loss.slopes.iter().all(|slope| slope.is_finite()),
                "{loss:?}"
            );
        }
    }

    #[test]
    fn even_odds_lose_log_2() {
        let same = completion(-2.0, 0.0, 2.0);
        let loss = Orpo { beta: 1.0 }.loss([same, same]);
        assert!((loss.value - 2_f64.ln()).abs() < 1e-15);
    }
}
