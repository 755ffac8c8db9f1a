//! One element of `datasets` or `evaluation.datasets`: Parquet files, which of their rows are
//! taken, and how these are read.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

use super::place::{Location, Said};
use super::section::{Section, Value};
use super::shape::Shape;
use super::split::{self, Split};
use crate::fault::Fault;
use crate::terms::{Format, TrainOn};

/// Parquet files of one format.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Where the element starts.
    pub place: Location,
    /// A file, a glob or a folder; or a data set of the Hub.
    pub path: Option<Said<String>>,
    /// The configuration of a data set of the Hub.
    pub config: Option<Said<String>>,
    /// Its splits, or slices of them; of other files a slice.
    pub split: Option<Said<Split>>,
    /// The most rows that are taken, after the slice.
    pub max_rows: Option<Said<u64>>,
    /// Its files, where they are not those that the path leads to: data of a run that was moved.
    pub files: Option<Vec<PathBuf>>,
    /// The shape of its rows.
    pub format: Option<Said<Format>>,
    /// The file's own name of a column, by the format's name of it.
    pub columns: BTreeMap<String, Said<String>>,
    /// Words of the data for roles, and the roles that the template knows.
    pub roles: BTreeMap<String, Said<String>>,
    /// Which tokens carry a loss.
    pub train_on: Option<Said<TrainOn>>,
    /// The system message of conversations that have none.
    pub system: Option<Said<String>>,
    /// Its share of an epoch is this over the sum of all.
    pub weight: Option<Said<f64>>,
}

/// The highest weight.
const MAX_WEIGHT: f64 = 1e6;

impl Dataset {
    /// One that is trained on.
    pub(super) fn take(section: &mut Section) -> Self {
        let weight = section.number(
            "weight",
            (Bound::Excluded(0.0), Bound::Included(MAX_WEIGHT)),
        );
        Self {
            weight,
            ..Self::take_scored(section)
        }
    }

    /// One that is only scored on, each row once.
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
            format: section.word("format", &["preference"]),
            columns: section.table_of("columns", Shape::Text, |_, value| value.text()),
            roles: section.table_of("roles", Shape::Text, |_, value| value.text()),
            train_on: section.word("train_on", &[]),
            system: section.text("system"),
            weight: None,
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
