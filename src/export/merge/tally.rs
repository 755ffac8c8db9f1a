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

/// Numbers that are looked at together.
pub(super) const LANES: usize = 8;

/// Counts and sums of every eighth number, which a processor makes for all eight at once.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    changed: [u32; LANES],
    not_finite: [u32; LANES],
    added: [f32; LANES],
    lost: [f32; LANES],
}

impl Lanes {
    /// Looks at some numbers: as they were, with what was added, and that as it is stored.
    #[allow(clippy::float_cmp, reason = "a number that was stored as another one is what is counted")]
    #[inline]
    pub fn take(&mut self, old: &[f32; LANES], sum: &[f32; LANES], stored: &[f32; LANES]) {
        // Loop by loop, since each becomes a few instructions for all lanes.
        for lane in 0..LANES {
            self.changed[lane] += u32::from(old[lane] != stored[lane]);
        }
        for (count, stored) in self.not_finite.iter_mut().zip(stored) {
            *count += u32::from(!stored.is_finite());
        }
        for lane in 0..LANES {
            self.added[lane] += (sum[lane] - old[lane]) * (sum[lane] - old[lane]);
        }
        for lane in 0..LANES {
            self.lost[lane] += (sum[lane] - stored[lane]) * (sum[lane] - stored[lane]);
        }
    }

    /// All lanes together, of so many numbers.
    pub fn tally(&self, numbers: u64) -> Tally {
        let (count, sum) =
            (|lanes: &[u32]| lanes.iter().sum::<u32>().into(), |lanes: &[f32]| lanes.iter().copied().map(f64::from).sum());
        let (changed, not_finite) = (count(&self.changed), count(&self.not_finite));
        Tally { numbers, changed, not_finite, added: sum(&self.added), lost: sum(&self.lost), ..Tally::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(old: f32, sum: f32, stored: f32) -> Tally {
        let mut lanes = Lanes::default();
        let first = |number: f32| std::array::from_fn(|lane| if lane == 0 { number } else { 1.0 });
        lanes.take(&first(old), &first(sum), &first(stored));
        lanes.tally(LANES as u64)
    }

    #[test]
    fn rounding_is_what_is_missing_of_the_change() {
        let mut total = tally(1.0, 1.25, 1.0);
        assert_eq!((total.numbers, total.changed, total.rounding()), (8, 0, Some(1.0)));
        total.add(&tally(1.0, 4.0, 4.0));
        assert_eq!((total.numbers, total.changed, total.not_finite), (16, 1, 0));
        assert!(total.rounding().expect("something was added") < 0.1);
        assert_eq!(Tally::default().rounding(), None);
        assert_eq!(
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX].map(|stored| tally(1.0, 1.0, stored).not_finite),
            [1, 1, 1, 0]
        );
    }
}
