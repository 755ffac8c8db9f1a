//! Distillation: the divergence of a student's next-token distribution from a teacher's.
//!
//! Agarwal et al. 2023, arXiv:2306.13649; temperature of Hinton et al. 2015, arXiv:1503.02531. `q`
//! is the teacher's distribution, `p` the student's, both of logits divided by the temperature.

use super::Judged;
use super::figures::{DIVERGENCE, Figures, NLL};
use super::scalar::log_one_minus_exp;
use crate::terms::{MissingMass, Readings, Slopes};

/// The closest to 0 that the logarithm of the mass of a teacher's known tokens counts, as in TRL.
const LOG_WHOLE: f64 = -1e-7;

/// Distillation, with TRL's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distill {
    /// 0: KL(q ‖ p). 1: KL(p ‖ q). Between them β KL(q ‖ m) + (1 - β) KL(p ‖ m) with
    /// m = β q + (1 - β) p, so that β weighs the teacher.
    pub beta: f64,
    /// The divisor of both logits.
    pub temperature: f64,
    /// Whether the divergence is multiplied by the square of the temperature.
    pub t_squared: bool,
    /// The share of cross-entropy, of logits that are not divided.
    pub ce_alpha: f64,
    /// What becomes of a teacher's mass outside of its known tokens.
    pub missing_mass: MissingMass,
}

/// The divergence from a teacher of which only some tokens are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Sparse {
    /// Nats.
    pub divergence: f64,
    /// Derivative by each known token's logit, before it was divided by the temperature.
    pub known: Vec<f64>,
    /// The same for any other token, by its probability under the student.
    pub others: f64,
}

impl Distill {
    /// Returns the factors of cross-entropy and of the divergence.
    pub fn weights(&self) -> [f64; 2] {
        let squared = if self.t_squared {
            self.temperature.powi(2)
        } else {
            1.0
        };
        [self.ce_alpha, (1.0 - self.ce_alpha) * squared]
    }

    /// Returns the divergence of `p` from `q`, given the logarithms of both for each outcome, nats,
    /// and writes its derivative by each logarithm of `p` to `slopes`, up to a multiple of `p`,
    /// which no logit sees.
    pub fn divergence(&self, log_q: &[f64], log_p: &[f64], slopes: &mut Vec<f64>) -> f64 {
        slopes.clear();
        let beta = self.beta;
        let mut sum = 0.0;
        for (log_q, log_p) in log_q.iter().zip(log_p) {
            let (q, p) = (log_q.exp(), log_p.exp());
            let (value, slope) = if beta <= 0.0 {
                // 0 log 0 is 0.
                let value = if q > 0.0 { q * (log_q - log_p) } else { 0.0 };
                (value, -q)
            } else if beta >= 1.0 {
                let value = if p > 0.0 { p * (log_p - log_q) } else { 0.0 };
                (value, value)
            } else {
                // log m - log p.
                let ratio = (log_q - log_p).clamp(-80.0, 80.0);
                let of_mean = (beta * ratio.exp() + 1.0 - beta).ln();
                let slope = -(1.0 - beta) * p * of_mean;
                (beta * q * (ratio - of_mean) + slope, slope)
            };
            sum += value;
            slopes.push(slope);
        }
        sum
    }

    /// Returns the divergence from a teacher's `known` log-probabilities, given the student's for
    /// the same tokens, each over the whole vocabulary.
    pub fn sparse(&self, known: &[f32], log_p: &[f64]) -> Sparse {
        let mut log_q: Vec<f64> = known.iter().copied().map(f64::from).collect();
        let mut log_p = log_p.to_vec();
        let (of_q, of_p) = (log_sum(&log_q), log_sum(&log_p));
        match self.missing_mass {
            MissingMass::Tail => {
                log_q.push(log_one_minus_exp(of_q.min(LOG_WHOLE)));
                log_p.push(log_one_minus_exp(of_p.min(LOG_WHOLE)));
            }
            MissingMass::Renorm => {
                shift(&mut log_q, of_q);
                shift(&mut log_p, of_p);
            }
            MissingMass::TeacherRenorm => {
                shift(&mut log_q, of_q);
                log_q.push(f64::NEG_INFINITY);
                log_p.push(log_one_minus_exp(of_p.min(LOG_WHOLE)));
            }
        }
        let mut slopes = Vec::with_capacity(log_p.len());
        let divergence = self.divergence(&log_q, &log_p, &mut slopes);
        let all: f64 = slopes.iter().sum();
        let by_logit =
            |(slope, log_p): (&f64, &f64)| (slope - log_p.exp() * all) / self.temperature;
        let derivatives = slopes.iter().zip(&log_p).take(known.len()).map(by_logit);
        let derivatives = derivatives.collect();
        let others = match (self.missing_mass, slopes.last(), log_p.last()) {
            (MissingMass::Tail | MissingMass::TeacherRenorm, Some(slope), Some(log_p)) => {
                (slope / log_p.exp() - all) / self.temperature
            }
            _ => 0.0,
        };
        Sparse {
            divergence,
            known: derivatives,
            others,
        }
    }

    /// Adds up both parts of the loss; every token counts once. Slopes are those of the mixed loss.
    pub(super) fn judge(&self, readings: &Readings) -> Judged {
        let [of_entropy, of_divergence] = self.weights();
        let (mut loss_sum, mut divergence, mut nll) = (0.0, 0.0, 0.0);
        for (log_p, apart) in readings.values.iter().zip(&readings.divergences) {
            let (log_p, apart) = (f64::from(*log_p), f64::from(*apart));
            // A share of 0 must not meet an infinity.
            if of_entropy > 0.0 {
                loss_sum -= of_entropy * log_p;
            }
            loss_sum += of_divergence * apart;
            nll -= log_p;
            divergence += apart;
        }
        let weight = readings.values.len() as f64;
        let mut figures = Figures::default();
        figures.add_sum(DIVERGENCE, divergence, weight);
        figures.add_sum(NLL, nll, weight);
        Judged {
            loss_sum,
            weight,
            slopes: Slopes::Same(1.0),
            figures,
        }
    }
}

/// Returns log Σ eˣ.
fn log_sum(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return most;
    }
    let sum: f64 = values.iter().map(|value| (value - most).exp()).sum();
    most + sum.ln()
}

/// Subtracts a number from all numbers.
fn shift(numbers: &mut [f64], by: f64) {
    for number in numbers {
        *number -= by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distill(beta: f64, temperature: f64, missing_mass: MissingMass) -> Distill {
        Distill {
            beta,
            temperature,
            t_squared: false,
            ce_alpha: 0.0,
            missing_mass,
        }
    }

    fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
        let scaled: Vec<f64> = logits.iter().map(|logit| logit / temperature).collect();
        let all = log_sum(&scaled);
        scaled.iter().map(|logit| logit - all).collect()
    }

    const STUDENT: [f64; 5] = [0.3, -1.2, 2.0, 0.1, -0.4];
    const TEACHER: [f64; 5] = [1.5, 0.2, -0.7, 0.9, -2.0];

    #[test]
    fn divergences_are_those_of_their_definitions() {
        let (q, p) = (log_softmax(&TEACHER, 1.0), log_softmax(&STUDENT, 1.0));
        let kl = |one: &[f64], other: &[f64]| -> f64 {
            let each = one.iter().zip(other);
            each.map(|(one, other)| one.exp() * (one - other)).sum()
        };
        let of = |beta: f64| {
            let mut slopes = Vec::new();
            distill(beta, 1.0, MissingMass::Tail).divergence(&q, &p, &mut slopes)
        };
        assert!((of(0.0) - kl(&q, &p)).abs() < 1e-12);
        assert!((of(1.0) - kl(&p, &q)).abs() < 1e-12);
        for beta in [0.1, 0.5, 0.8] {
            let mean = |(q, p): (&f64, &f64)| (beta * q.exp() + (1.0 - beta) * p.exp()).ln();
            let mean: Vec<f64> = q.iter().zip(&p).map(mean).collect();
            let expected = beta * kl(&q, &mean) + (1.0 - beta) * kl(&p, &mean);
            assert!((of(beta) - expected).abs() < 1e-12, "{beta}");
        }
    }

    /// Known tokens 0 and 3 of the teacher, and the student's logits.
    fn sparse(of: &Distill, logits: &[f64]) -> Sparse {
        let q = log_softmax(&TEACHER, of.temperature);
        let p = log_softmax(logits, of.temperature);
        of.sparse(&[q[0] as f32, q[3] as f32], &[p[0], p[3]])
    }

    #[test]
    fn derivatives_of_known_and_other_tokens_are_those_of_differences() {
        for missing_mass in [
            MissingMass::Tail,
            MissingMass::Renorm,
            MissingMass::TeacherRenorm,
        ] {
            for (beta, temperature) in [(0.0, 1.0), (0.0, 2.0), (0.4, 1.5), (1.0, 1.0)] {
                if missing_mass == MissingMass::TeacherRenorm && beta >= 1.0 {
                    continue;
                }
                let of = distill(beta, temperature, missing_mass);
                let p = log_softmax(&STUDENT, temperature);
                let found = sparse(&of, &STUDENT);
                for place in 0..STUDENT.len() {
                    let at = |step: f64| {
                        let mut logits = STUDENT;
                        logits[place] += step;
                        sparse(&of, &logits).divergence
                    };
                    let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let ours = match place {
                        0 => found.known[0],
                        3 => found.known[1],
                        other => found.others * p[other].exp(),
                    };
                    assert!(
                        (ours - expected).abs() < 1e-8,
                        "{missing_mass}, {beta}, {temperature}, {place}: {ours}, not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn all_tokens_known_is_the_whole_divergence() {
        let (q, p) = (log_softmax(&TEACHER, 1.0), log_softmax(&STUDENT, 1.0));
        let known: Vec<f32> = q.iter().map(|log_q| *log_q as f32).collect();
        for missing_mass in [
            MissingMass::Tail,
            MissingMass::Renorm,
            MissingMass::TeacherRenorm,
        ] {
            let of = distill(0.0, 1.0, missing_mass);
            let whole = of.divergence(&q, &p, &mut Vec::new());
            let found = of.sparse(&known, &p).divergence;
            assert!((found - whole).abs() < 1e-6, "{missing_mass}: {found}");
        }
    }

    #[test]
    fn both_parts_of_the_loss_are_mixed_and_told_apart() {
        let of = Distill {
            ce_alpha: 0.25,
            t_squared: true,
            ..distill(0.0, 2.0, MissingMass::Tail)
        };
        let readings = Readings {
            values: vec![-1.0, -3.0],
            divergences: vec![0.5, 0.25],
            ..Readings::default()
        };
        let judged = of.judge(&readings);
        let expected = 0.25 * 4.0 + 0.75 * 4.0 * 0.75;
        assert!((judged.loss_sum - expected).abs() < 1e-12);
        let figures = judged.figures.means();
        assert!((figures[DIVERGENCE] - 0.375).abs() < 1e-12);
        assert!((figures[NLL] - 2.0).abs() < 1e-12);
        // A token that the student rules out is no matter where cross-entropy does not count.
        let ruled_out = Readings {
            values: vec![f32::NEG_INFINITY],
            divergences: vec![0.5],
            ..Readings::default()
        };
        let alone = distill(0.0, 1.0, MissingMass::Tail).judge(&ruled_out);
        assert!((alone.loss_sum - 0.5).abs() < 1e-12);
    }
}
