//! What a run is turned into for others, one function a file.

pub mod card;
pub mod gguf;
mod ledger;
pub mod merge;
mod page;

pub use card::{Card, card};
pub use ledger::{Line, write_ledger};
pub use page::{EvaluationLine, Metrics, PAGE_BEGINS, Progress, RunRecord, Sample, StepLine, page};
