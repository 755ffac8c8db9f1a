//! Rankine fine-tunes open-weight language models with low-rank adapters.

pub mod adapter;
pub mod cli;
pub mod data;
pub mod device;
pub mod export;
pub mod fault;
pub mod files;
pub mod model;
pub mod nn;
pub mod ops;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod terms;
pub mod train;
