//! Cross-entropy of the trained tokens: the mean over the trained tokens of a step of -log p, times
//! the weight of the token's row.
//!
//! Smoothed labels, Szegedy et al. 2016, arXiv:1512.00567, give a share e of the label to all tokens
//! of the vocabulary evenly: (1 - e) (-log p) + e mean(-log p). Dynamic fine-tuning, Wu et al. 2025,
//! arXiv:2508.05629, multiplies -log p by p without a gradient.
//!
//! The divisor does not have the weights, so that they act however few rows a step has.

use super::Judged;
use super::figures::{Figures, NLL};
use crate::terms::{Readings, SftLoss, Slopes, Unit, UnitKind};

/// The derivative of -log p by log p.
const SLOPE: f32 = -1.0;

/// Settings of supervised fine-tuning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NextToken {
    /// The loss of a token.
    pub loss_type: SftLoss,
    /// The share of a label that all tokens of the vocabulary get, from 0 to below 1; with `nll`
    /// only.
    pub label_smoothing: f64,
    /// Alpha of the noise on embeddings in training, `NEFTune`, Jain et al. 2023, arXiv:2310.05914;
    /// 0: none.
    pub neftune_noise_alpha: f64,
}

impl NextToken {
    /// Cross-entropy and nothing else.
    pub const PLAIN: Self = Self {
        loss_type: SftLoss::Nll,
        label_smoothing: 0.0,
        neftune_noise_alpha: 0.0,
    };

    /// Returns the derivatives of the sum of losses where they do not depend on readings. With
    /// smoothed labels they are those by (1 - e) log p + e mean(log p).
    pub(super) fn slopes_ahead(&self, units: &[Unit]) -> Option<Slopes> {
        if self.loss_type == SftLoss::Dft {
            return None;
        }
        let is_plain = |unit: &Unit| weight(unit).to_bits() == 1_f32.to_bits();
        if units.iter().all(is_plain) {
            return Some(Slopes::Same(SLOPE));
        }
        let of_targets = units.iter().flat_map(|unit| {
            let slope = SLOPE * weight(unit);
            unit.targets.clone().map(move |_| slope)
        });
        Some(Slopes::Each(of_targets.collect()))
    }

    /// Sums the losses in order and in f64.
    pub(super) fn judge(&self, readings: &Readings, units: &[Unit]) -> Judged {
        let (mut loss_sum, mut nll, mut of_dft) = (0.0, 0.0, Vec::new());
        let smoothing = self.label_smoothing;
        for unit in units {
            let factor = f64::from(weight(unit));
            for target in unit.targets.clone() {
                let log_p = f64::from(readings.values[target]);
                nll -= log_p;
                let loss = match self.loss_type {
                    SftLoss::Nll if smoothing > 0.0 => {
                        -(1.0 - smoothing) * log_p - smoothing * f64::from(readings.means[target])
                    }
                    SftLoss::Nll => -log_p,
                    SftLoss::Dft => {
                        of_dft.push((-factor * log_p.exp()) as f32);
                        -log_p.exp() * log_p
                    }
                };
                loss_sum += factor * loss;
            }
        }
        let trained_tokens: usize = units.iter().map(|unit| unit.targets.len()).sum();
        let mut figures = Figures::default();
        if smoothing > 0.0 || self.loss_type == SftLoss::Dft {
            figures.add_sum(NLL, nll, trained_tokens as f64);
        }
        Judged {
            loss_sum,
            weight: trained_tokens as f64,
            slopes: self.slopes_ahead(units).unwrap_or(Slopes::Each(of_dft)),
            figures,
        }
    }
}

fn weight(unit: &Unit) -> f32 {
    match unit.kind {
        UnitKind::Tokens { weight } => weight,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings() -> Readings {
        Readings {
            values: vec![0.5_f32.ln(), 0.25_f32.ln(), 0.0],
            means: vec![-3.0, -2.5, -9.0],
            ..Readings::default()
        }
    }

    #[test]
    fn the_loss_is_the_sum_of_negative_logarithms() {
        let units = [0..2, 2..2, 2..3].map(Unit::tokens);
        let Judged {
            loss_sum,
            weight,
            slopes,
            figures,
        } = NextToken::PLAIN.judge(&readings(), &units);
        assert!((loss_sum - 8f64.ln()).abs() < 1e-6, "{loss_sum}");
        assert_eq!(
            (weight.to_bits(), slopes, figures),
            (3_f64.to_bits(), Slopes::Same(-1.0), Figures::default())
        );
    }

    #[test]
    fn a_weight_multiplies_the_loss_of_its_row_and_no_divisor() {
        let units = [
            Unit::weighted_tokens(0..2, 0.5),
            Unit::weighted_tokens(2..2, 7.0),
            Unit::tokens(2..3),
        ];
        let judged = NextToken::PLAIN.judge(&readings(), &units);
        assert!((judged.loss_sum - 0.5 * 8f64.ln()).abs() < 1e-6);
        assert_eq!(judged.weight.to_bits(), 3_f64.to_bits());
        assert_eq!(judged.slopes, Slopes::Each(vec![-0.5, -0.5, -1.0]));
        assert_eq!(NextToken::PLAIN.slopes_ahead(&units), Some(judged.slopes));
    }

    #[test]
    fn smoothed_labels_have_a_share_of_every_token() {
        let smoothed = NextToken {
            label_smoothing: 0.2,
            ..NextToken::PLAIN
        };
        let units = [Unit::tokens(0..2), Unit::weighted_tokens(2..3, 2.0)];
        let judged = smoothed.judge(&readings(), &units);
        let expected = 0.8 * 8f64.ln() + 0.2 * (3.0 + 2.5) + 2.0 * 0.2 * 9.0;
        assert!((judged.loss_sum - expected).abs() < 1e-6);
        assert_eq!(judged.slopes, Slopes::Each(vec![-1.0, -1.0, -2.0]));
        let nll = judged.figures.means()[NLL];
        assert!((nll - 8f64.ln() / 3.0).abs() < 1e-6, "{nll}");
    }

    #[test]
    fn a_probability_without_a_gradient_multiplies_the_loss() {
        let dft = NextToken {
            loss_type: SftLoss::Dft,
            ..NextToken::PLAIN
        };
        let units = [Unit::weighted_tokens(0..2, 3.0), Unit::tokens(2..3)];
        assert_eq!(dft.slopes_ahead(&units), None);
        let judged = dft.judge(&readings(), &units);
        let expected = 3.0 * (0.5 * 2f64.ln() + 0.25 * 4f64.ln());
        assert!((judged.loss_sum - expected).abs() < 1e-6);
        let Slopes::Each(slopes) = judged.slopes else {
            panic!("{:?}", judged.slopes)
        };
        for (slope, expected) in slopes.iter().zip([-1.5, -0.75, -1.0]) {
            assert!((slope - expected).abs() < 1e-6, "{slopes:?}");
        }
        assert_eq!(judged.weight.to_bits(), 3_f64.to_bits());
    }
}
