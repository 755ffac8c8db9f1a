//! Datasets mixed by weight.

use serde_json::{Value, json};

use super::filled::Filled;
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
