//! Where the rows of a module stand in a GGUF file, for who changes them there.

use super::architecture::Architecture;
use super::names::places;
use super::sources::{stored_place, stored_row};
use crate::model::DecoderSpec;

/// Rows of a tensor of a GGUF file that belong to one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRows {
    /// The tensor's name.
    pub tensor: String,
    /// The first of the rows in the tensor.
    pub first: usize,
    /// The module's row of each of them, in the file's order.
    pub rows: Vec<usize>,
    /// The module's column of each column of the file, where they are in another order.
    pub columns: Option<Vec<usize>>,
}

/// Returns the places of the rows of a module's weight or bias (`end`) of this shape; `None` if
/// there is no name for it.
pub(crate) fn file_rows(
    (module, end): (&str, &str),
    [rows, columns]: [usize; 2],
    architecture: &Architecture,
    spec: &DecoderSpec,
) -> Option<Vec<FileRows>> {
    let change = architecture.change(module, end, spec);
    let mut stored = vec![0; rows];
    (0..rows).for_each(|row| stored[stored_row(&change, rows, row)] = row);
    let across = change.tiled.filter(|tiled| tiled.across && end == "weight");
    let across = across.map(|tiled| {
        let mut stored = vec![0; columns];
        (0..columns).for_each(|column| stored[stored_place(tiled, column)] = column);
        stored
    });
    let places = places(module, architecture, spec)?;
    let part = rows / places.len();
    let each = places.iter().zip(stored.chunks(part.max(1)));
    let each = each.map(|(place, rows)| FileRows {
        tensor: format!("{}.{end}", place.module),
        first: place.expert.unwrap_or_default() * rows.len(),
        rows: rows.to_vec(),
        columns: across.clone(),
    });
    Some(each.collect())
}
