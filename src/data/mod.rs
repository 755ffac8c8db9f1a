//! Rows of Parquet to batches of tokens: [`find_files`], [`Corpus`], [`split`] and [`shuffled`], [`Packs`], [`Rows`], [`Batch`]; and
//! what becomes of each row on the way: [`Fate`], [`Ledger`].

mod added_tokens;
mod batch;
mod cache;
mod cells;
mod chosen;
pub mod convert;
mod corpus;
mod encode;
mod fate;
mod fill;
mod footer;
mod format;
mod labels;
mod ledger;
mod licence;
mod order;
mod pack;
mod pages;
mod parquet;
mod pieces;
mod renumbered;
mod rows;
mod source;
pub mod template;
pub mod tokenize;
mod vet;
mod visible;

pub use batch::Batch;
pub use cache::Row;
pub use corpus::{Corpus, Error, Limits};
pub use encode::{Encoder, TokenRow};
pub use fate::{Divided, Fate, Record, duplicates};
pub use format::{Error as ConversationError, conversation, inspect};
pub use ledger::{Ledger, Longest, Tally};
pub use licence::{Terms, terms};
pub use order::{Error as SplitError, Split, shuffled, split};
pub use pack::{Packing, Packs, Visit};
pub use parquet::{Error as TableError, columns};
pub use pieces::{Piece, pieces};
pub use renumbered::RenumberedToken;
pub use rows::Rows;
pub use source::{Error as SourceError, Source, find_files};
pub use visible::visible;
