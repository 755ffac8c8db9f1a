//! A sample of a run's rows to look at, spread over its sources.

use super::rows::RunData;
use crate::data::RowCounts;

impl RunData {
    /// Returns the numbers of `count` rows, ascending. Each source contributes the same number, at
    /// equal distances among the rows that it keeps or leaves out as duplicates. A source without
    /// such rows shows its first row.
    pub fn sample(&self, count: usize) -> Vec<u64> {
        let shown = |kept: u64, rows: u64| if kept > 0 { kept } else { rows.min(1) };
        let most: Vec<u64> = self
            .ledger()
            .sources
            .iter()
            .map(|tally| shown(within_limits(tally), tally.rows))
            .collect();
        let (mut numbers, mut rows, mut kept) = (Vec::new(), 0, 0);
        for (tally, share) in self
            .ledger()
            .sources
            .iter()
            .zip(shares(count as u64, &most))
        {
            let within = within_limits(tally);
            if within == 0 {
                numbers.extend((0..share).map(|_| rows));
            } else {
                numbers.extend((0..share).map(|place| self.number(kept + place * within / share)));
            }
            (rows, kept) = (rows + tally.rows, kept + within);
        }
        numbers
    }

    /// Returns the number of a row within the limits, by its index among those of all sources.
    fn number(&self, index: u64) -> u64 {
        let of_datasets = self.datasets.corpus.len() as u64;
        match index.checked_sub(of_datasets) {
            None => self.datasets.corpus.number(index as usize),
            Some(index) => {
                self.datasets.corpus.rows_read() + self.evaluation.corpus.number(index as usize)
            }
        }
    }
}

/// Returns how many rows are kept, or left out only as duplicates.
fn within_limits(tally: &RowCounts) -> u64 {
    tally.kept() + tally.alike()
}

/// Divides `count` as equally as `most` allows; the first ones get the remainder.
fn shares(count: u64, most: &[u64]) -> Vec<u64> {
    let mut shares = vec![0; most.len()];
    let mut left = count.min(most.iter().sum());
    while left > 0 {
        let open: Vec<usize> = (0..most.len())
            .filter(|index| shares[*index] < most[*index])
            .collect();
        let each = (left / open.len() as u64).max(1);
        for index in open {
            let more = each.min(most[index] - shares[index]).min(left);
            (shares[index], left) = (shares[index] + more, left - more);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_its_share_and_what_one_lacks_goes_to_the_others() {
        assert_eq!(shares(3, &[100]), [3]);
        assert_eq!(shares(3, &[100, 100]), [2, 1]);
        assert_eq!(shares(7, &[100, 1, 100]), [3, 1, 3]);
        assert_eq!(shares(1, &[0, 5]), [0, 1]);
        assert_eq!(shares(u64::MAX, &[2, 3]), [2, 3]);
        assert_eq!(shares(0, &[2]), [0]);
    }
}
