//! Tables and rows of them that replace the base's.

use std::collections::BTreeMap;

use super::source::MergeSource;
use crate::adapter::peft::StoredTable;
use crate::adapter::{AdapterError, TablePart};
use crate::model::{LinearSpec, Role};

/// Rows that replace the base's.
#[derive(Debug)]
pub struct Replacement {
    width: usize,
    /// Factor of their difference from the base's rows.
    pub weight: f64,
    /// Indices of rows by token; `None`: every row is in its own place.
    tokens: Option<BTreeMap<usize, usize>>,
    numbers: Vec<f32>,
}

impl Replacement {
    /// Returns the replacement of rows of a weight; `None` where nothing is replaced.
    ///
    /// # Errors
    /// Numbers cannot be read, or another adapter changes the same table.
    pub fn of(sources: &[MergeSource], linear: &LinearSpec) -> Result<Option<Self>, AdapterError> {
        let mut found = None;
        for (index, source) in sources.iter().enumerate() {
            let Some(replaced) = source.replaced(linear)? else {
                continue;
            };
            if found.is_some() {
                return Err(AdapterError::TwoTables {
                    module: linear.name.clone(),
                });
            }
            found = Some((index, replaced));
        }
        let Some((found, replacement)) = found else {
            return Ok(None);
        };
        // Matrices over a table of the base that came with them are in it.
        let changes = |(index, source): (usize, &MergeSource)| {
            source.pairs.contains_key(&linear.name)
                && (index != found || source.base_key(linear).is_none())
        };
        if sources.iter().enumerate().any(changes) {
            return Err(AdapterError::TwoTables {
                module: linear.name.clone(),
            });
        }
        Ok(Some(replacement))
    }

    /// Returns the replacement of a row.
    pub fn row(&self, row: usize) -> Option<&[f32]> {
        let place = self
            .tokens
            .as_ref()
            .map_or(Some(row), |tokens| tokens.get(&row).copied())?;
        Some(&self.numbers[place * self.width..(place + 1) * self.width])
    }
}

impl MergeSource {
    /// Returns the replacement of a table or of some of its rows.
    fn replaced(&self, linear: &LinearSpec) -> Result<Option<Replacement>, AdapterError> {
        let rows = self.rows(linear)?;
        let Some(key) = self.base_key(linear) else {
            return Ok(rows);
        };
        let (mut numbers, [_, width]) = (
            self.archive.read_f32(key)?.unwrap_or_default(),
            linear.weight_shape(),
        );
        if let Some(rows) = rows {
            for (row, numbers) in numbers.chunks_mut(width).enumerate() {
                if let Some(own) = rows.row(row) {
                    numbers.copy_from_slice(own);
                }
            }
        }
        if let Some(pair) = self.scaled(linear) {
            add_product(&mut numbers, &pair?, width);
        }
        Ok(Some(Replacement {
            width,
            weight: self.weight,
            tokens: None,
            numbers,
        }))
    }

    /// Returns the trained table, or its rows.
    fn rows(&self, linear: &LinearSpec) -> Result<Option<Replacement>, AdapterError> {
        let shares = self.shares_rows && linear.role == Role::TiedHead;
        let is_it = |stored: &&StoredTable| {
            let module = &stored.target.module;
            module.name == linear.name || (shares && module.role == Role::Embedding)
        };
        let Some(stored) = self.tables.iter().find(is_it) else {
            return Ok(None);
        };
        let tokens = match &stored.target.part {
            TablePart::Whole => None,
            TablePart::Rows(tokens) | TablePart::Shared(tokens) => Some(
                tokens
                    .iter()
                    .enumerate()
                    .map(|(place, token)| (*token as usize, place))
                    .collect(),
            ),
        };
        let [_, width] = linear.weight_shape();
        let numbers = self.archive.read_f32(&stored.key)?.unwrap_or_default();
        Ok(Some(Replacement {
            width,
            weight: self.weight,
            tokens,
            numbers,
        }))
    }
}

/// Adds B A to a matrix with `columns` columns.
fn add_product(numbers: &mut [f32], [a, b]: &[Vec<f32>; 2], columns: usize) {
    let rank = a.len() / columns;
    for (row, of_b) in numbers.chunks_mut(columns).zip(b.chunks(rank)) {
        for (of_b, of_a) in of_b.iter().zip(a.chunks(columns)) {
            row.iter_mut()
                .zip(of_a)
                .for_each(|(number, a)| *number += of_b * a);
        }
    }
}
