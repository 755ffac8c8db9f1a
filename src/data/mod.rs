//! Rows of Parquet to batches of tokens: [`find_files`], [`Corpus`], [`split`] and [`shuffled`], [`Rows`], [`Batch`].

mod batch;
mod cache;
mod cells;
mod corpus;
mod encode;
mod footer;
mod format;
mod ledger;
mod order;
mod parquet;
mod rows;
mod source;
pub mod template;
pub mod tokenize;

pub use batch::Batch;
pub use corpus::{Corpus, Error, Limits};
pub use encode::{Encoder, TokenRow};
pub use format::inspect;
pub use ledger::{Ledger, Longest, Tally};
pub use order::{Error as SplitError, Split, shuffled, split};
pub use parquet::Error as TableError;
pub use rows::Rows;
pub use source::{Error as SourceError, Source, find_files};
