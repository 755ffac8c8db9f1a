//! Rows of Parquet to batches of tokens.

mod batch;

pub use batch::{Batch, TokenRow};
