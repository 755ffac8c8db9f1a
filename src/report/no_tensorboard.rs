//! The sink of a build without the feature `tensorboard`: it takes everything and writes nothing.

use std::path::Path;

use super::Event;

/// Nothing.
#[derive(Debug)]
pub struct TensorBoard;

impl TensorBoard {
    /// Writes nothing.
    pub fn start(_folder: &Path, _first: u64, _metrics: &Path) -> Self {
        Self
    }

    /// Takes an event.
    pub fn take(&self, _event: &Event) -> Option<String> {
        None
    }

    /// There is nothing to wait for.
    pub fn finish(self) -> Option<String> {
        None
    }
}
