//! Rankine fine-tunes open-weight language models with low-rank adapters. One YAML recipe names a
//! base, Parquet data and hyperparameters. One binary trains and writes an adapter that PEFT reads.
//!
//! The modules follow the path of the data:
//!
//! ```text
//! recipe.yaml -> Recipe -> Plan -> (Tokenizer, Rows, Decoder) -> Batches -> Decoder + adapters
//!     -> train::run -> checkpoint -> adapter
//! ```
//!
//! The training loop is [`train::run`]. A run begins in `cli/train.rs`, which calls
//! [`run::train`], as any other program may; `examples/train.rs` does. Imports go only downward,
//! from a level to a lower one, as `tests/layers.rs` checks:
//!
//! - Level 12: [`cli`], one file per command: arguments, a call, and printing. The only place that
//!   writes to stdout.
//! - Level 11: [`run`], what a run is: its folder, lock and signals, from a recipe to an adapter,
//!   resuming, scores and merges.
//! - Level 10: [`plan`], what will be done. It fills in every value with its origin and makes the
//!   parts.
//! - Level 9: [`proof`], whether training on a device can be trusted.
//! - Level 8: [`train`], the loop, step, schedule, optimizer, evaluation and checkpoints;
//!   [`export`], conversion of a run for other programs.
//! - Level 7: [`adapter`], which projections get an adapter, attaching, PEFT's files and the delta
//!   that an adapter adds to a weight; [`infer`], generation.
//! - Level 6: [`model`], the decoder described by data, model families and strict loading.
//! - Level 5: [`nn`], one mechanism per file.
//! - Level 4: [`ops`], operations with a backward of their own.
//! - Level 3: [`data`], from files to batches; [`device`], where a run computes; [`hub`], from Hub
//!   ids to folders, the only module that uses the network.
//! - Level 2: [`recipe`], what the user wrote; [`report`], events of a run and who shows them.
//! - Level 1: [`files`]; [`quant`], codes of quantized weights; [`objective`], losses and their
//!   derivatives, on plain numbers.
//! - Level 0: the words that all share: [`fault`], [`terms`], [`keyed_random`]; [`panics`], what a
//!   failing device says.

pub mod adapter;
pub mod cli;
pub mod data;
pub mod device;
pub mod export;
pub mod fault;
pub mod files;
pub mod hub;
pub mod infer;
pub mod keyed_random;
pub mod model;
pub mod nn;
pub mod objective;
pub mod ops;
pub mod panics;
pub mod plan;
pub mod proof;
pub mod quant;
pub mod recipe;
pub mod report;
pub mod run;
pub mod terms;
pub mod train;
