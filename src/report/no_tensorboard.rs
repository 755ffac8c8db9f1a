//! Sink of a build without the feature `tensorboard`. It accepts events and writes nothing.

use std::path::Path;

use super::Event;

/// Sink that writes nothing.
#[derive(Debug)]
pub struct TensorBoard;

impl TensorBoard {
    /// Makes the sink.
    pub fn start(_folder: &Path, _first: u64, _metrics: &Path) -> Self {
        Self
    }

    /// Ignores an event.
    pub fn take(&self, _event: &Event) -> Option<String> {
        None
    }

    /// Returns at once, because nothing is pending.
    pub fn finish(self) -> Option<String> {
        None
    }
}
