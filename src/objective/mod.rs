//! The objectives that training minimizes. An objective takes the readings of a micro-batch and
//! gives a loss and its derivative by each reading. These are numbers without tensors, so that a
//! test can compare them with a closed form.

mod next_token;

use crate::terms::{Readings, Slopes, Unit};

/// A loss to minimize.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// Cross-entropy of the trained tokens.
    NextToken,
    /// Cross-entropy with a weight for each row, so that slopes differ and are known only after
    /// reading.
    #[cfg(test)]
    WeightedRows(Vec<f32>),
}

/// The loss and the slopes of some readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Sum of losses, nats.
    pub loss_sum: f64,
    /// The divisor of the sum, to be added up over all micro-batches of a step.
    pub weight: f64,
    /// Derivative of the sum by each reading.
    pub slopes: Slopes,
}

impl Objective {
    /// Returns the slope of every reading where it does not depend on the readings: reading and
    /// backward may then be one pass.
    pub fn slope_ahead(&self) -> Option<f32> {
        match self {
            Self::NextToken => Some(next_token::SLOPE),
            #[cfg(test)]
            Self::WeightedRows(_) => None,
        }
    }

    /// Returns the loss of a micro-batch whose targets belong to these units.
    pub fn judge(&self, readings: &Readings, units: &[Unit]) -> Judged {
        match self {
            Self::NextToken => next_token::judge(readings, units),
            #[cfg(test)]
            Self::WeightedRows(weights) => {
                let of_targets = units
                    .iter()
                    .zip(weights)
                    .flat_map(|(unit, weight)| unit.targets.clone().map(|_| *weight));
                let weights: Vec<f32> = of_targets.collect();
                let losses = readings
                    .values
                    .iter()
                    .zip(&weights)
                    .map(|(log_p, weight)| f64::from(-log_p * weight));
                let slopes = Slopes::Each(weights.iter().map(|weight| -weight).collect());
                Judged {
                    loss_sum: losses.sum(),
                    weight: weights.len() as f64,
                    slopes,
                }
            }
        }
    }
}
