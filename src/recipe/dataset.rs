//! One element of `datasets` or `evaluation.datasets`: data files, the rows to take, and how to
//! read them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

use super::place::{Location, Said};
use super::section::{Section, Value};
use super::shape::Shape;
use super::split::{self, Split};
use crate::fault::Fault;
use crate::terms::{Format, TrainOn};

/// Data files of one format.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Where the element starts.
    pub place: Location,
    /// A file, a glob, a folder, or a data set of the Hub.
    pub path: Option<Said<String>>,
    /// The configuration of a data set of the Hub.
    pub config: Option<Said<String>>,
    /// Its splits, or slices of them; for other files a slice.
    pub split: Option<Said<Split>>,
    /// The most rows to take, after the slice.
    pub max_rows: Option<Said<u64>>,
    /// Its files, if they are not where the path leads: data of a run that was moved.
    pub files: Option<Vec<PathBuf>>,
    /// The format of its rows.
    pub format: Option<Said<Format>>,
    /// The file's own column name, by the format's name of the column.
    pub columns: BTreeMap<String, Said<String>>,
    /// Role words of the data, with the template's roles for them.
    pub roles: BTreeMap<String, Said<String>>,
    /// The tokens that carry a loss.
    pub train_on: Option<Said<TrainOn>>,
    /// The system message of conversations that have none.
    pub system: Option<Said<String>>,
    /// Its weight: its share of an epoch is the weight over the sum of all weights.
    pub weight: Option<Said<f64>>,
    /// The factor of its rows' loss.
    pub loss_weight: Option<Said<f64>>,
}

/// The highest weight.
const MAX_WEIGHT: f64 = 1e6;

impl Dataset {
    /// Takes a dataset to train on.
    pub(super) fn take(section: &mut Section) -> Self {
        let above_zero = (Bound::Excluded(0.0), Bound::Included(MAX_WEIGHT));
        Self {
            weight: section.number("weight", above_zero),
            loss_weight: section.number("loss_weight", above_zero),
            ..Self::take_scored(section)
        }
    }

    /// Takes a dataset that is only scored on, each row once.
    pub(super) fn take_scored(section: &mut Section) -> Self {
        section.require("path", "path: datasets/medical-glossary.parquet");
        section.require("format", "format: chat");
        Self {
            place: section.place().clone(),
            path: section.text("path"),
            config: section.text("config"),
            split: section
                .shaped("split", Shape::Pattern(split::PATTERN))
                .and_then(split_of),
            max_rows: section.whole("max_rows", 1..),
            files: None,
            format: section.word("format", &[]),
            columns: section.table_of("columns", Shape::Text, |_, value| value.text()),
            roles: section.table_of("roles", Shape::Text, |_, value| value.text()),
            train_on: section.word("train_on", &[]),
            system: section.text("system"),
            weight: None,
            loss_weight: None,
        }
    }
}

fn split_of(value: Value) -> Option<Said<Split>> {
    let (name, place) = (value.name.clone(), value.node.place.clone());
    let Some(text) = value.node.text() else {
        value.mismatch("a split such as `train` or `train[:20%]`, or a slice in quotes");
        return None;
    };
    match Split::parse(text) {
        Ok(split) => Some(Said {
            value: split,
            place,
        }),
        Err(reason) => {
            value.refuse(Fault::new(format!("{name}: {reason}")));
            None
        }
    }
}
