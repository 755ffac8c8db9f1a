//! The section `output`: how often a run is saved and how much of it is kept.

use super::place::Said;
use super::section::Section;
use super::training::MAX_COUNT;

/// Settings for saving and keeping checkpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Optimizer steps between checkpoints; 0 for the ends of epochs and every five minutes.
    pub save_steps: Option<Said<usize>>,
    /// The number of checkpoints to keep.
    pub save_total_limit: Option<Said<usize>>,
}

impl Output {
    pub(super) fn take(section: &mut Section) -> Self {
        Self {
            save_steps: section.whole("save_steps", 0..=MAX_COUNT),
            save_total_limit: section.whole("save_total_limit", 1..=MAX_COUNT),
        }
    }
}
