//! Cross-entropy: the sum of -log p over trained tokens.

use super::Judged;
use super::figures::Figures;
use crate::terms::{Readings, Slopes, Unit};

/// The derivative of -log p by log p.
pub(super) const SLOPE: f32 = -1.0;

/// Sums the losses in order and in f64; every token counts once.
pub(super) fn judge(readings: &Readings, units: &[Unit]) -> Judged {
    let losses = readings.values.iter().map(|log_p| f64::from(-log_p));
    let trained_tokens: usize = units.iter().map(|unit| unit.targets.len()).sum();
    Judged {
        loss_sum: losses.sum(),
        weight: trained_tokens as f64,
        slopes: Slopes::Same(SLOPE),
        figures: Figures::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_the_sum_of_negative_logarithms() {
        let readings = Readings::of(vec![0.5_f32.ln(), 0.25_f32.ln(), 0.0]);
        let units = [0..2, 2..2, 2..3].map(Unit::tokens);
        let Judged {
            loss_sum,
            weight,
            slopes,
            ..
        } = judge(&readings, &units);
        assert!((loss_sum - 8f64.ln()).abs() < 1e-6, "{loss_sum}");
        assert_eq!(
            (weight.to_bits(), slopes),
            (3_f64.to_bits(), Slopes::Same(-1.0))
        );
    }
}
