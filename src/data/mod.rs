//! From files of rows to batches of tokens, in rooms of which none imports one after it: `read`
//! (files to values) and `tokenizer`; [`convert`] (other files to Parquet) and [`template`]
//! (conversations to text); `example` (values to tokens); `corpus` (the rows of all sources, each
//! with its status: [`Corpus`], [`split`], [`near_duplicates`], [`Ledger`]); `batch` (what a step
//! reads: [`Mixture`], [`Packs`], [`Rows`], [`Batch`]).

mod batch;
pub mod convert;
mod corpus;
mod example;
mod json_text;
mod read;
pub mod template;
pub mod tokenizer;
mod visible;

pub use batch::mixture::{Draw, Mixture, Quota};
pub use batch::pack::{Packing, Packs, Visit};
pub use batch::row_batch::{Batch, Scoring};
pub use batch::rows::{Preferences, Rows};
pub use batch::top_rows::TopRows;
pub use corpus::divided::{Divided, duplicates};
pub use corpus::error::CorpusError;
pub use corpus::indexed_rows::{Corpus, Limits};
pub use corpus::near::{Pair, near_duplicates, near_duplicates_of};
pub use corpus::row_counts::{Ledger, Longest, RowCounts};
pub use corpus::row_status::{Duplicate, RowRecord, RowStatus};
pub use corpus::shuffle::{Split, SplitError, shuffled, split};
pub use corpus::source::{DataSource, SourceError, find_files, passed_over};
pub use corpus::token_slice::TokenSlice;
pub use example::asked::{Asked, asked};
pub use example::classes::{ClassReading, LabelReading};
pub use example::conversation_error::ConversationError;
pub use example::cut;
pub use example::encode::{Encoder, alpaca};
pub use example::format::{any_rendered, guessed, inspect, unread_columns};
pub use example::label_scan::{LabelScan, scan_labels};
pub use example::token_row::{RatedRow, ScoredRow, TokenRow};
pub use example::turns::conversation;
pub use example::unlabeled::{Unlabeled, UnlabeledForm, unlabeled_rows};
pub use read::data_file::DataFile;
pub use read::error::TableError;
pub use read::first_bytes::Content;
pub use read::license::{Terms, terms};
pub use read::likely::{Candidate, Meant, detected, in_recipe};
pub use read::parquet::{candidates, columns};
pub use read::teacher::{
    COLUMNS as TEACHER_COLUMNS, TEMPERATURE as TEACHER_TEMPERATURE, TaughtRow, taught_rows,
};
pub use read::texts::texts;
pub use tokenizer::pieces::{TokenText, pieces};
pub use tokenizer::renumbered::RenumberedToken;
pub use tokenizer::revised::Revision;
pub use tokenizer::special::TokenRole;
pub use tokenizer::{files as tokenizer_files, gguf as tokenizer_gguf, tokenize};
pub use visible::visible;
