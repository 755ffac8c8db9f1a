//! The tokenizer of a base: its files, their limits, its special tokens, and text to token ids and
//! back.

mod added;
pub mod error;
pub mod files;
pub mod gguf;
mod limits;
mod parsed;
pub mod pieces;
pub mod renumbered;
pub mod revised;
mod same;
pub mod special;
pub mod templates;
mod token;
pub mod tokenize;
