//! The most likely tokens of rows' targets under a teacher. There may be more of them than fit into
//! memory, so they stay in files.
//!
//! A row's record has one entry for each of its targets: ids (u32 each), then log-probabilities
//! (f32 each), little-endian.

use std::ops::Range;

use crate::files::Map;
use crate::terms::TopTokens;

/// Bytes of a token: its id and its log-probability.
const TOKEN_BYTES: usize = 8;

/// The most likely tokens of the targets of rows, by their places.
#[derive(Debug, Default)]
pub struct TopRows {
    each: usize,
    files: Vec<Map>,
    /// File and bytes of each row's record.
    rows: Vec<(usize, Range<usize>)>,
}

impl TopRows {
    /// Makes a table of `rows` rows, whose targets have `each` tokens.
    pub fn new(each: usize, rows: usize) -> Self {
        Self {
            each,
            files: Vec::new(),
            rows: vec![(0, 0..0); rows],
        }
    }

    /// Returns the number of tokens of a target; 0 without a teacher.
    pub fn each(&self) -> usize {
        self.each
    }

    /// Adds a file in which the records of some rows, each given with its number of targets, lie
    /// one after another from byte `start` on.
    ///
    /// # Panics
    /// There is no such row.
    pub fn add(&mut self, file: Map, start: usize, rows: impl Iterator<Item = (u32, usize)>) {
        let mut at = start;
        for (place, targets) in rows {
            let end = at + Self::bytes(self.each, targets);
            self.rows[place as usize] = (self.files.len(), at..end);
            at = end;
        }
        self.files.push(file);
    }

    /// Returns the length of the record of a row.
    pub fn bytes(each: usize, targets: usize) -> usize {
        targets * each * TOKEN_BYTES
    }

    /// Appends the record of a row to `to`.
    pub fn write(row: &TopTokens, to: &mut Vec<u8>) {
        for (ids, log_p) in row.ids.chunks(row.each).zip(row.log_p.chunks(row.each)) {
            to.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
            to.extend(log_p.iter().flat_map(|log_p| log_p.to_le_bytes()));
        }
    }

    /// Appends the tokens of the row at a place to those of a batch.
    pub(super) fn append(&self, place: u32, to: &mut TopTokens) {
        let Some((file, bytes)) = self
            .rows
            .get(place as usize)
            .filter(|(_, at)| !at.is_empty())
        else {
            return;
        };
        let record = self.files[*file].slice(bytes.clone());
        for entry in record.chunks(self.each * TOKEN_BYTES) {
            let (ids, log_p) = entry.split_at(entry.len() / 2);
            to.ids
                .extend(ids.as_chunks().0.iter().copied().map(u32::from_le_bytes));
            to.log_p
                .extend(log_p.as_chunks().0.iter().copied().map(f32::from_le_bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    #[test]
    fn records_are_read_back_for_any_order_of_rows() {
        let row = |first: u32, targets: u32| TopTokens {
            each: 2,
            ids: (first..first + 2 * targets).collect(),
            log_p: (0..2 * targets).map(|at| -(at as f32) - 0.1).collect(),
        };
        let rows = [row(10, 3), row(40, 0), row(20, 1)];
        let mut bytes = b"stamp".to_vec();
        for row in &rows {
            TopRows::write(row, &mut bytes);
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.teacher");
        std::fs::write(&path, bytes).expect("written");
        let mut table = TopRows::new(2, 5);
        let places = [(4, 3), (0, 0), (2, 1)].into_iter();
        table.add(files::map(&path).expect("mapped"), 5, places);
        let of = |places: &[u32]| {
            let mut all = TopTokens {
                each: 2,
                ..TopTokens::default()
            };
            for place in places {
                table.append(*place, &mut all);
            }
            all
        };
        assert_eq!(of(&[4]), rows[0]);
        assert_eq!(of(&[0, 1]), rows[1]);
        let both = of(&[2, 4]);
        assert_eq!(both.ids, [20, 21, 10, 11, 12, 13, 14, 15]);
        assert_eq!(both.of_targets(0..1), rows[2]);
        assert_eq!(both.of_targets(1..4), rows[0]);
    }
}
