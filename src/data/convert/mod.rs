//! Conversion of JSON, JSONL, CSV, TSV, texts and Parquet of another layout to a Parquet file that
//! a recipe reads.
//!
//! There are two passes, each with a few megabytes in memory: the first finds the columns and their
//! types over all rows, the second writes. Every row is kept, or reported with its line and the
//! reason.

mod chat_of;
mod converted;
mod delimited;
mod error;
mod in_cache;
mod inputs;
mod job;
mod json;
mod layout;
mod lines;
mod names;
mod output;
mod piece;
mod reshape;
mod row;
mod shape;
mod stream;
mod walk;

pub use converted::{ColumnFound, Converted};
pub use error::ConvertError;
pub use in_cache::{Reading, data_files, is_convertible};
pub use names::Proposal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use inputs::FileForm;
use job::{Job, license_of};
use layout::Naming;

use crate::report::Reporter;
use crate::terms::Format;

/// Request for a conversion.
#[derive(Debug)]
pub struct ConvertRequest {
    /// Files and folders.
    pub sources: Vec<PathBuf>,
    /// The Parquet file to write.
    pub out: PathBuf,
    /// The format of the rows; `None`: it is guessed.
    pub format: Option<Format>,
    /// Map from canonical column names to the names in the source.
    pub columns: BTreeMap<String, String>,
    /// Maximum number of rows that may be left out.
    pub max_dropped: u64,
    /// The license of the rows; `None`: it is looked for beside them.
    pub license: Option<String>,
}

/// Converts to a Parquet file, which is complete or absent.
///
/// # Errors
/// A source cannot be read, too many rows are invalid, the columns do not fit the format, or the
/// disk is full.
pub fn convert(
    order: &ConvertRequest,
    stop: &AtomicBool,
    report: Reporter,
) -> Result<Converted, ConvertError> {
    let mut notes = Vec::new();
    let inputs = inputs::find(&order.sources, &mut notes)?;
    let license = order.license.clone().or_else(|| license_of(&inputs));
    let naming = Naming {
        format: order.format,
        columns: order.columns.clone(),
        keeps_names: false,
    };
    let job = Job {
        inputs: &inputs,
        out: &order.out,
        naming: &naming,
        max_dropped: order.max_dropped,
        license,
        is_private: false,
    };
    let mut converted = if inputs.iter().any(|input| input.form == FileForm::Parquet) {
        reshape::reshape(&job, stop, report)?
    } else {
        job.run_guarded(stop, report)?
    };
    notes.append(&mut converted.notes);
    converted.notes = notes;
    Ok(converted)
}
