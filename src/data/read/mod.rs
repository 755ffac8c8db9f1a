//! Reads data files: the kind of a file, its license, its columns, and its rows as JSON values.

pub mod cells;
pub mod columns;
pub mod data_file;
pub mod error;
pub mod first_bytes;
pub mod footer;
pub mod license;
pub mod likely;
pub mod names;
mod pages;
pub mod parquet;
pub mod teacher;
pub mod texts;
mod times;
