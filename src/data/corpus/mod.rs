//! The rows of all sources: tokenized once into a cache, cut and divided, each with its status.

mod build_cache;
pub mod divided;
pub mod error;
pub mod indexed_rows;
pub mod near;
pub mod row_counts;
mod row_set;
pub mod row_status;
pub mod shuffle;
pub mod source;
pub mod token_cache;
mod token_record;
pub mod token_slice;
