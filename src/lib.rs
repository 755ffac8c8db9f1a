//! Rankine fine-tunes open-weight language models with low-rank adapters: one YAML recipe names a
//! base, Parquet data and hyperparameters, one binary trains and writes an adapter that PEFT reads.
//!
//! The path of the data is the plan of the house:
//!
//! ```text
//! recipe.yaml -> Recipe -> Plan -> (Tokenizer, Rows, Decoder) -> Batches -> Decoder + adapters -> train::run -> checkpoint -> adapter
//! ```
//!
//! The training loop is [`train::run`]; `cli/train.rs` leads to it. Imports go only downward, which
//! `tests/layers.rs` holds:
//!
//! | level | modules |
//! |---|---|
//! | 7 | [`cli`]: one file a verb, the only place that writes to stdout |
//! | 6 | [`plan`]: what will be done; fills every value and its origin, makes the parts, writes the lock |
//! | 5 | [`proof`]: whether training on a device can be trusted |
//! | 4 | [`train`]: the loop, step, schedule, optimizer, evaluation, checkpoints; [`infer`]: generation; [`export`]: what a run is turned into for others |
//! | 3 | [`adapter`]: which projections get one, attaching, PEFT's files, what it adds to a weight; [`objective`]: losses and their derivatives, numbers to numbers |
//! | 2 | [`model`]: the decoder described by data, families, strict loading |
//! | 1 | [`recipe`]: what the user wrote; [`data`]: Parquet to batches; [`nn`]: one mechanism a file; [`hub`]: ids to folders, the only module that knows the network |
//! | 0 | [`files`], [`report`], [`device`], [`ops`], [`quant`], [`panics`], and the words all share: [`fault`], [`terms`], [`keyed_random`] |

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
