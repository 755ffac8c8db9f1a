//! Exports of a run for other programs and people, one format per file.

pub mod card;
mod classified;
pub mod consumers;
mod folder;
pub mod gguf;
mod ledger;
pub mod merge;
mod mlx;
pub mod ollama;
mod page;
mod peft;
mod repack;
mod vectors;

pub use card::{Card, card};
pub use classified::{Classified, LabelColumn, write_classified};
pub use folder::write_folder;
pub use ledger::{Line, write_ledger};
pub use mlx::write_mlx;
pub use page::{
    EvaluationLine, Metrics, PAGE_BEGINS, Progress, RunRecord, Sample, ScoredRun, StepLine, page,
};
pub use peft::write_peft;
pub use repack::{RepackError, Repacked, repack, repacked_bytes};
pub use vectors::{Vectors, write_vectors};
