//! The settings for duplicates and near-duplicates, filled.

use super::filled::Filled;
use crate::recipe::Recipe;
use crate::terms::{Deduplicate, NearDuplicates};

/// The Jaccard similarity from which rows are near-duplicates: about one word in twelve differs.
const THRESHOLD: f64 = 0.6;

/// Rule for rows that are left out as duplicates or near-duplicates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alike {
    /// The rule for rows that are like an earlier one.
    pub deduplicate: Deduplicate,
    /// The Jaccard similarity from which rows are near-duplicates.
    pub threshold: f64,
    /// The rule for training rows that are like a validation row.
    pub held_out: NearDuplicates,
}

/// Fills the settings of duplicates.
pub(super) fn alike(recipe: &Recipe, filled: &mut Filled) -> Alike {
    let (training, evaluation) = (&recipe.training, &recipe.evaluation);
    let deduplicate = filled.word(
        "training.deduplicate",
        training.deduplicate.as_ref(),
        Deduplicate::None,
    );
    let said = evaluation.near_duplicates.as_ref();
    let holds_out = evaluation
        .val_set_size
        .as_ref()
        .is_some_and(|said| !said.value.is_none())
        || !evaluation.datasets.is_empty();
    let drops = deduplicate == Deduplicate::Near && holds_out;
    let default = if drops {
        NearDuplicates::Drop
    } else {
        NearDuplicates::Keep
    };
    let held_out = filled.word("evaluation.near_duplicates", said, default);
    let is_used = deduplicate == Deduplicate::Near || holds_out;
    let said = training.near_threshold.as_ref();
    let threshold = if is_used {
        filled.plain("training.near_threshold", said, THRESHOLD)
    } else {
        THRESHOLD
    };
    Alike {
        deduplicate,
        threshold,
        held_out,
    }
}

impl Alike {
    /// Returns whether rows may be left out or refused because of this.
    pub fn leaves_out(self) -> bool {
        self.deduplicate != Deduplicate::None || self.held_out != NearDuplicates::Keep
    }
}
