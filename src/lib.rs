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
//! The training loop is [`train::run`]; `cli/train.rs` leads to it. Imports go only downward, from
//! a level to a lower one, as `tests/layers.rs` checks:
//!
//! - Level 7: [`cli`], one file per command, the only place that writes to stdout.
//! - Level 6: [`plan`], what will be done. It fills in every value with its origin, makes the parts
//!   and writes the lock.
//! - Level 5: [`proof`], whether training on a device can be trusted.
//! - Level 4: [`train`], the loop, step, schedule, optimizer, evaluation and checkpoints;
//!   [`infer`], generation; [`export`], conversion of a run for other programs.
//! - Level 3: [`adapter`], which projections get an adapter, attaching, PEFT's files and the delta
//!   that an adapter adds to a weight; [`objective`], losses and their derivatives, on plain
//!   numbers.
//! - Level 2: [`model`], the decoder described by data, model families and strict loading.
//! - Level 1: [`recipe`], what the user wrote; [`data`], from Parquet to batches; [`nn`], one
//!   mechanism per file; [`hub`], from Hub ids to folders, the only module that uses the network.
//! - Level 0: [`files`], [`report`], [`device`], [`ops`], [`quant`], [`panics`], and the words that
//!   all share: [`fault`], [`terms`], [`keyed_random`].

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
pub mod terms;
pub mod train;
