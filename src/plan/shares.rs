//! The rows that the first epoch draws from each dataset, and what to say of them.

use super::PlanError;
use super::mixing::Share;
use super::rows::RunData;

impl RunData {
    /// Returns what the first epoch draws from each dataset; nothing if no dataset has a weight.
    pub fn shares(&self) -> Vec<Share> {
        let (Some(mixing), rows) = (&self.mixing, self.training()) else {
            return Vec::new();
        };
        let quotas = rows
            .mixture()
            .map(|mixture| mixture.quotas(0))
            .unwrap_or_default();
        let share = |(index, (quota, weight)): (usize, (crate::data::Quota, &f64))| Share {
            dataset: format!("datasets.{index}"),
            weight: *weight,
            rows: quota.rows,
            drawn: quota.draws,
            repeated: quota.repeated(),
        };
        quotas
            .into_iter()
            .zip(&mixing.weights)
            .enumerate()
            .map(share)
            .collect()
    }

    /// Returns notes on datasets whose weight draws no row.
    pub(super) fn notes_of_mixing(&self) -> Vec<String> {
        let shares = self.shares().into_iter();
        let without = shares.filter(|share| share.drawn == 0 && share.rows > 0);
        without
            .map(|share| {
                format!(
                    "{}: its weight of {} draws none of its {} rows in the first epoch",
                    share.dataset, share.weight, share.rows
                )
            })
            .collect()
    }

    /// Refuses a dataset with a weight and no row to draw, and an epoch that cannot be counted.
    pub(super) fn check_mixing(&self) -> Result<(), PlanError> {
        if let Some(share) = self.shares().iter().find(|share| share.rows == 0) {
            return Err(PlanError::Rows {
                message: format!(
                    "{}: it has a weight of {} and no row to train on",
                    share.dataset, share.weight
                ),
                hint: "see with `rankine preview` what became of its rows, or take it out"
                    .to_owned(),
            });
        }
        let rows = self.training();
        match rows.mixture().filter(|mixture| mixture.is_too_long()) {
            None => Ok(()),
            Some(mixture) => Err(PlanError::Rows {
                message: format!(
                    "datasets: an epoch would have {} draws until each dataset was drawn whole, at \
                    most {} can be counted",
                    mixture.draws_per_epoch(),
                    u32::MAX
                ),
                hint: "set weights that are closer together, or `training.stopping_strategy: \
                    all_rows`"
                    .to_owned(),
            }),
        }
    }
}
