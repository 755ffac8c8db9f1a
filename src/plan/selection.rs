//! Selection of rows: what `split` and `max_rows` take of a dataset's files, by the row counts in
//! the footers.

use std::ops::Range;

use super::hub_data::split_of;
use crate::fault::Fault;
use crate::hub::DatasetSnapshot;
use crate::recipe::{Dataset, Split};

/// Checks for keys that apply only to data sets of the Hub.
pub(super) fn check_keys(
    section: &str,
    dataset: &Dataset,
    snapshot: Option<&DatasetSnapshot>,
    faults: &mut Vec<Fault>,
) {
    let path = dataset.path.as_ref().map_or("", |said| said.value.as_str());
    let names_files = snapshot.is_some_and(|snapshot| snapshot.config.is_none());
    if let Some(config) = dataset
        .config
        .as_ref()
        .filter(|_| snapshot.is_none() || names_files)
    {
        let why = if names_files {
            "which names its files"
        } else {
            "which is no data set of the Hub"
        };
        let fault = Fault::new(format!(
            "{section}.config: `{}` does not go with `{path}`, {why}",
            config.value
        ));
        faults.push(
            fault
                .at(&config.place)
                .hint("remove `config`, or write `path: hf://datasets/owner/name`"),
        );
    }
}

/// Returns the rows of each file that are taken; `None` if all are. `rows` are the row counts of
/// the files, in order, and `snapshot` tells which files belong to which split.
///
/// Local files, sorted, are one split, `train`.
pub(super) fn selected(
    section: &str,
    dataset: &Dataset,
    rows: &[u64],
    snapshot: Option<&DatasetSnapshot>,
    faults: &mut Vec<Fault>,
) -> Option<Vec<Range<u64>>> {
    let split = split_of(dataset);
    let mut refuse = |reason: String, hint: &str| {
        let place = dataset
            .split
            .as_ref()
            .map_or(&dataset.place, |said| &said.place);
        faults.push(
            Fault::new(format!("{section}.split: {reason}"))
                .at(place)
                .hint(hint),
        );
    };
    let sizes: Vec<usize> = match snapshot {
        Some(snapshot) => snapshot
            .splits
            .iter()
            .map(|split| split.files.len())
            .collect(),
        None if split.parts.len() > 1 || split.parts[0].name() != Split::TRAIN => {
            let reason = format!(
                "`{}` names splits, which local files have not, expected `train` or a slice of it",
                split.written
            );
            refuse(reason, "name the files of that split in `path`");
            return None;
        }
        None => vec![rows.len()],
    };
    let (mut taken, mut first) = (Vec::with_capacity(rows.len()), 0);
    for (part, files) in split.parts.iter().zip(sizes) {
        let of_files = &rows[first..first + files];
        match part.rows(of_files.iter().sum()) {
            Ok(wanted) => taken.extend(by_file(&wanted, of_files)),
            Err(reason) => {
                refuse(
                    reason,
                    "correct the slice; `max_rows` takes the first rows, or all where \
                    there are fewer",
                );
                return None;
            }
        }
        first += files;
    }
    if let Some(most) = &dataset.max_rows {
        let mut left = most.value;
        for range in &mut taken {
            range.end = range.end.min(range.start + left);
            left -= range.end - range.start;
        }
    }
    let is_whole = taken
        .iter()
        .zip(rows)
        .all(|(range, rows)| *range == (0..*rows));
    (!is_whole).then_some(taken)
}

/// Divides a range of rows among consecutive files.
fn by_file(wanted: &Range<u64>, rows: &[u64]) -> Vec<Range<u64>> {
    let mut first = 0;
    let of_file = |rows: &u64| {
        let within = |row: u64| row.clamp(first, first + rows) - first;
        let range = within(wanted.start)..within(wanted.end);
        first += rows;
        range
    };
    rows.iter().map(of_file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_runs_over_the_files_in_their_order() {
        assert_eq!(by_file(&(2..9), &[4, 4, 4]), [2..4, 0..4, 0..1]);
        assert_eq!(by_file(&(5..6), &[4, 4]), [4..4, 1..2]);
        assert_eq!(by_file(&(0..8), &[4, 0, 4]), [0..4, 0..0, 0..4]);
    }
}
