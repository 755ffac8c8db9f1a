//! Datasets mixed by weight.

use serde_json::{Value, json};

use super::PlanError;
use super::filled::Filled;
use super::rows::RunData;
use crate::data::Mixture;
use crate::recipe::Recipe;
use crate::terms::EpochEnd;

/// The weights of `datasets`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixing {
    /// One weight per dataset.
    pub weights: Vec<f64>,
    /// How many rows an epoch draws.
    pub end: EpochEnd,
}

/// The rows that an epoch draws from a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// The dataset's key in the recipe.
    pub dataset: String,
    /// Its weight.
    pub weight: f64,
    /// The number of its training rows.
    pub rows: u64,
    /// Rows that the first epoch draws; later epochs may draw one more or less.
    pub drawn: u64,
    /// How many of them the epoch has drawn before.
    pub repeated: u64,
}

impl Share {
    /// Describes the share in words.
    pub fn describe(&self) -> String {
        let Self {
            dataset,
            weight,
            rows,
            drawn,
            repeated,
        } = self;
        let repeated = if *repeated > 0 {
            format!(", {repeated} of them again")
        } else {
            String::new()
        };
        format!("{dataset}: weight {weight}, {drawn} draws an epoch from {rows} rows{repeated}")
    }

    /// Returns the share as JSON.
    pub fn object(&self) -> Value {
        let Self {
            dataset,
            weight,
            rows,
            drawn,
            repeated,
        } = self;
        json!({
            "dataset": dataset,
            "weight": weight,
            "rows": rows,
            "draws_per_epoch": drawn,
            "repeated_per_epoch": repeated,
        })
    }
}

/// Fills the weights. Without weights, every row is seen once per epoch.
pub(super) fn mixing(recipe: &Recipe, filled: &mut Filled) -> Option<Mixing> {
    if recipe
        .datasets
        .iter()
        .all(|dataset| dataset.weight.is_none())
    {
        return None;
    }
    let weight = |(index, dataset): (usize, &crate::recipe::Dataset)| {
        filled.plain(
            &format!("datasets.{index}.weight"),
            dataset.weight.as_ref(),
            1.0,
        )
    };
    let weights = recipe.datasets.iter().enumerate().map(weight).collect();
    let end = filled.word(
        "training.stopping_strategy",
        recipe.training.stopping_strategy.as_ref(),
        EpochEnd::AllRows,
    );
    Some(Mixing { weights, end })
}

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
}

impl RunData {
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

impl Mixing {
    /// Returns the mixture of rows whose places are grouped by dataset; `counts` has the number of
    /// rows of each.
    pub(super) fn of_rows(&self, counts: impl Iterator<Item = u32>) -> Mixture {
        let mut end = 0;
        let parts: Vec<_> = counts
            .zip(&self.weights)
            .map(|(count, weight)| {
                end += count;
                (end - count..end, *weight)
            })
            .collect();
        Mixture::new(&parts, self.end)
    }
}
