//! The section `evaluation`: the rows that an adapter is scored on, and when.

use super::dataset::Dataset;
use super::place::Said;
use super::section::{Section, Value};
use super::shape::Shape;
use super::training::MAX_COUNT;
use crate::terms::{Holdout, NearDuplicates};

/// Validation rows, early stopping and prompts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// The training rows that are held out.
    pub val_set_size: Option<Said<Holdout>>,
    /// Separate validation sets.
    pub datasets: Vec<Dataset>,
    /// What happens to training rows that are near-duplicates of validation rows.
    pub near_duplicates: Option<Said<NearDuplicates>>,
    /// Optimizer steps between evaluations; 0 for the ends of epochs.
    pub eval_steps: Option<Said<usize>>,
    /// Evaluations without a better loss before training ends; 0 for never.
    pub early_stopping_patience: Option<Said<usize>>,
    /// The prompts that are answered at each evaluation.
    pub prompts: Vec<Said<String>>,
}

impl Evaluation {
    pub(super) fn take(section: &mut Section) -> Self {
        Self {
            val_set_size: section
                .shaped("val_set_size", holdout_shape())
                .and_then(holdout),
            datasets: section.sections("datasets", Dataset::take_scored),
            near_duplicates: section.word("near_duplicates", &[]),
            eval_steps: section.whole("eval_steps", 0..=MAX_COUNT),
            early_stopping_patience: section.whole("early_stopping_patience", 0..=MAX_COUNT),
            prompts: section
                .shaped(
                    "prompts",
                    Shape::OneOf(vec![Shape::list(Shape::Text), Shape::Off]),
                )
                .map(prompts)
                .unwrap_or_default(),
        }
    }
}

/// Reads a list of texts; `false` and `none` are an empty list.
fn prompts(value: Value) -> Vec<Said<String>> {
    let listed = if value.node.is_neutral() {
        None
    } else {
        value.list()
    };
    // A blank is no question.
    let text = |value: Value| {
        value.read("a text", |node| {
            node.text().filter(|_| !node.is_blank()).map(str::to_owned)
        })
    };
    listed.into_iter().flatten().filter_map(text).collect()
}

fn holdout_shape() -> Shape {
    Shape::OneOf(vec![Shape::whole(&(0..)), Shape::number(&(0.0..1.0))])
}

fn holdout(value: Value) -> Option<Said<Holdout>> {
    value.read(
        "a share below 1 or a whole number of rows",
        |node| match node.whole() {
            Some(rows) => usize::try_from(rows).ok().map(Holdout::Rows),
            None => node
                .number()
                .filter(|share| (0.0..1.0).contains(share))
                .map(Holdout::Share),
        },
    )
}
