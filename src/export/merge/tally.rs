//! What merging did to the numbers, so that a merge that changed nothing, or that rounding ate, does not pass unseen.

/// Counts and sums over the weights that adapters change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Tensors written.
    pub tensors: u64,
    /// Of them, those that an adapter changes.
    pub merged_tensors: u64,
    /// Numbers in those.
    pub numbers: u64,
    /// Of them, those that are not stored as they were.
    pub changed: u64,
    /// Bytes of the files of weights.
    pub bytes: u64,
    /// Of all that were written, those that are infinite or no numbers.
    pub(super) not_finite: u64,
    /// Sum of the squares of what the adapters add.
    pub(super) added: f64,
    /// Sum of the squares of what rounding to the stored type took from it.
    pub(super) lost: f64,
}

impl Tally {
    /// Of some numbers: as they were, with what was added, and that as it is stored.
    #[allow(clippy::float_cmp, reason = "a number that was stored as another one is what is counted")]
    pub(super) fn of(old: &[f32], sum: &[f32], stored: &[f32]) -> Self {
        Self {
            numbers: old.len() as u64,
            changed: old.iter().zip(stored).filter(|(old, stored)| old != stored).count() as u64,
            not_finite: not_finite(stored),
            added: squares(sum, old),
            lost: squares(sum, stored),
            ..Self::default()
        }
    }

    /// Adds another's counts and sums to these.
    pub(super) fn add(&mut self, other: &Self) {
        self.tensors += other.tensors;
        self.merged_tensors += other.merged_tensors;
        self.numbers += other.numbers;
        self.changed += other.changed;
        self.bytes += other.bytes;
        self.not_finite += other.not_finite;
        self.added += other.added;
        self.lost += other.lost;
    }

    /// ‖what rounding took‖ / ‖what the adapters add‖; `None` where they add nothing.
    pub fn rounding(&self) -> Option<f64> {
        (self.added > 0.0).then(|| (self.lost / self.added).sqrt())
    }
}

/// How many are infinite or no numbers.
pub(super) fn not_finite(numbers: &[f32]) -> u64 {
    numbers.iter().filter(|number| !number.is_finite()).count() as u64
}

/// ‖left - right‖², in lanes that a processor adds up at once.
fn squares(left: &[f32], right: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0f32; LANES];
    for (left, right) in left.chunks(LANES).zip(right.chunks(LANES)) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += (left - right) * (left - right);
        }
    }
    lanes.into_iter().map(f64::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_what_is_missing_of_the_change() {
        let mut tally = Tally::of(&[1.0, 1.0], &[1.25, 1.0], &[1.0, 1.0]);
        assert_eq!((tally.numbers, tally.changed, tally.rounding()), (2, 0, Some(1.0)));
        tally.add(&Tally::of(&[1.0], &[4.0], &[4.0]));
        assert_eq!((tally.numbers, tally.changed), (3, 1));
        assert!(tally.rounding().expect("something was added") < 0.1);
        assert_eq!(Tally::default().rounding(), None);
    }
}
