//! One element of `datasets` or `evaluation.datasets`: Parquet files and how their rows are read.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

use super::place::{Place, Said};
use super::section::Section;
use super::shape::Shape;
use crate::terms::{Format, TrainOn};

/// Parquet files of one format.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Where the element starts.
    pub place: Place,
    /// A file, a glob or a folder.
    pub path: Option<Said<String>>,
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
        let weight = section.number("weight", (Bound::Excluded(0.0), Bound::Included(MAX_WEIGHT)));
        Self { weight, ..Self::take_scored(section) }
    }

    /// One that is only scored on, each row once.
    pub(super) fn take_scored(section: &mut Section) -> Self {
        section.require("path", "path: datasets/medical-glossary.parquet");
        section.require("format", "format: chat");
        Self {
            place: section.place().clone(),
            path: section.text("path"),
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
