//! A run, as a library caller and the command line take it: from a recipe to an adapter or a model,
//! its continuation after an interruption, its scores, and merges into its base.
//!
//! [`plan`] resolves a recipe, [`train`] carries the plan out and [`resume`] continues it;
//! [`score`] compares what was trained with its base, and [`merge`] makes a model that stands
//! alone. Nothing here prints: progress goes to a [`Reporter`](crate::report::Reporter).

mod artifact;
mod base;
mod card;
mod classify;
mod device_fault;
mod embed;
mod folder;
mod head_scores;
pub mod hub;
mod inputs;
mod interrupt;
mod loaded_model;
mod lock;
mod lock_changes;
mod merge;
mod merge_check;
mod out_of_memory;
mod places;
mod plan_lines;
mod planned;
mod provenance;
mod ranks;
mod redact;
mod reference;
mod result;
mod resume;
mod scores;
mod self_check;
mod session;
mod signals;
mod teach;
mod teacher;
mod train;
mod trained;

pub use artifact::{Artifact, Made};
pub use base::{
    SHARED_LOCK, base_with, find_adapter, find_base, lock_above, no_folder, report_notes,
};
pub use classify::{ClassifyOptions, ClassifyResult, classify};
pub use embed::{EmbedRequest, Embedded, embed};
pub use head_scores::{HeadScores, score_head};
pub use inputs::{Hashing, Inputs};
pub use interrupt::Interrupt;
pub use loaded_model::{Answer, LoadedModel, ModelChoice};
pub use lock::Lock;
pub use merge::{LEFTOVER, MergeOptions, Merged, addend_of, folder_above, merge};
pub use places::{Named, Places};
pub use plan_lines::plan_lines;
pub use planned::{is_of_hub, plan, resolve, with_base};
pub use ranks::{Ranks, is_embedder, rank};
pub use redact::{map as entries_without_places, text as without_places};
pub use result::read as read_result;
pub use resume::{ResumeOptions, check_is_run, find, is_finished, read_lock, resume};
pub use scores::{CACHE_ENTRIES, GENERAL, ScoreOptions, ScoreRow, Scores, Subject, score};
pub use self_check::is_proven;
pub use session::{DeviceCheck, Finished};
pub use signals::Signals;
pub use teach::{Taught, TeachOptions, model_hashes, teach};
pub use teacher::load_teacher;
pub use train::{TrainOptions, train};
pub use trained::Opened;
