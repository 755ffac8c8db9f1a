//! Counts the effects of a merge on the numbers, so that a merge that changed nothing, or whose
//! changes were lost to rounding, is noticed.

use crate::export::gguf::{GgmlType, TensorType};
use crate::files::Float;
use crate::files::float::{Bf16, F16, Number};
use crate::quant::BlockFormat;

/// The share of the change lost to rounding from which the user is told.
const MUCH: f64 = 0.1;

/// Counts and sums over the weights that adapters change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Tensors written.
    pub tensors: u64,
    /// Tensors that an adapter changes.
    pub merged_tensors: u64,
    /// Numbers in those tensors.
    pub numbers: u64,
    /// Numbers whose stored value changed.
    pub changed: u64,
    /// Numbers in merged tensors that are stored as [`Float::F32`], [`Float::F16`] and
    /// [`Float::Bf16`].
    pub(super) stored_in: [u64; 3],
    /// Numbers in merged tensors that are stored in blocks of a GGUF file.
    pub(super) in_blocks: u64,
    /// Bytes of the weight files.
    pub bytes: u64,
    /// Numbers written that are infinite or not numbers.
    pub(super) not_finite: u64,
    /// The sum of the squares of what the adapters add.
    pub(super) added: f64,
    /// The sums of the squares of what rounding loses: with the stored type, and with other types.
    pub(super) lost: f64,
    pub(super) lost_in_f16: f64,
    pub(super) lost_in_bf16: f64,
    /// Only measured on request.
    pub(super) lost_in_q8_0: f64,
}

impl Tally {
    /// Adds the counts and sums of another tally.
    pub(super) fn add(&mut self, other: &Self) {
        self.tensors += other.tensors;
        self.merged_tensors += other.merged_tensors;
        self.numbers += other.numbers;
        self.changed += other.changed;
        self.stored_in
            .iter_mut()
            .zip(other.stored_in)
            .for_each(|(count, other)| *count += other);
        self.in_blocks += other.in_blocks;
        self.bytes += other.bytes;
        self.not_finite += other.not_finite;
        self.added += other.added;
        self.lost += other.lost;
        self.lost_in_f16 += other.lost_in_f16;
        self.lost_in_bf16 += other.lost_in_bf16;
        self.lost_in_q8_0 += other.lost_in_q8_0;
    }

    /// Returns ‖lost to rounding‖ / ‖added by the adapters‖; `None` if they add nothing.
    pub fn rounding(&self) -> Option<f64> {
        self.share(self.lost)
    }

    /// Returns the same for a single rounding to another type; for [`GgmlType::Q8_0`] only if the
    /// merge measured it, for mixes never.
    pub fn rounding_in(&self, kind: GgmlType) -> Option<f64> {
        let lost = match kind {
            GgmlType::F32 => 0.0,
            GgmlType::F16 => self.lost_in_f16,
            GgmlType::Bf16 => self.lost_in_bf16,
            GgmlType::Q8_0 => self.lost_in_q8_0,
            GgmlType::Q4_0 | GgmlType::Q4KM | GgmlType::Q5KM | GgmlType::Q6K => return None,
        };
        self.share(lost)
    }

    fn share(&self, lost: f64) -> Option<f64> {
        (self.added > 0.0).then(|| (lost / self.added).sqrt())
    }

    /// Returns whether there is no change that could be lost.
    pub fn added_nothing(&self) -> bool {
        self.added == 0.0
    }

    /// Counts the numbers of a merged tensor by stored type.
    pub(super) fn count_stored(&mut self, float: Float) {
        self.stored_in[float as usize] += self.numbers;
    }

    /// Returns [`Tally::rounding_note`] for the type in which most merged numbers are stored.
    pub fn stored_note(&self) -> Option<String> {
        if self.in_blocks > self.stored_in.iter().sum() {
            return self.blocks_note();
        }
        let most = [GgmlType::F32, GgmlType::F16, GgmlType::Bf16]
            .into_iter()
            .zip(self.stored_in)
            .max_by_key(|(_, count)| *count);
        self.note(self.rounding()?, most?.0)
    }

    /// Returns a note on tensors of a GGUF file that were quantized anew.
    fn blocks_note(&self) -> Option<String> {
        let took = Self::took(self.rounding().filter(|share| *share >= MUCH)?);
        Some(format!(
            "quantizing the changed tensors anew {took}; use `--dtype q8_0` or `--dtype f16`"
        ))
    }

    /// Returns what a share of the change that is lost means.
    fn took(share: f64) -> String {
        if share <= 1.0 {
            format!("removed {:.0} % of the adapter's change", 100.0 * share)
        } else {
            format!("changes the weights {share:.1} times as much as the adapter does")
        }
    }

    /// Returns a note on rounding to a type that loses a tenth of the change or more, with the
    /// types that keep it.
    pub fn rounding_note(&self, kind: GgmlType) -> Option<String> {
        self.note(self.rounding_in(kind)?, kind)
    }

    fn note(&self, share: f64, kind: GgmlType) -> Option<String> {
        if share < MUCH {
            return None;
        }
        let others = [GgmlType::F16, GgmlType::Bf16]
            .into_iter()
            .filter(|other| *other != kind);
        let shares = others.filter_map(|other| Some((self.rounding_in(other)?, other)));
        let better = shares
            .filter(|(other, _)| *other < share)
            .min_by(|(one, _), (other, _)| one.total_cmp(other));
        let better = better.map_or_else(String::new, |(share, kind)| {
            format!(" (or {}: {:.0} %)", kind.option(), 100.0 * share)
        });
        let took = Self::took(share);
        Some(format!(
            "{} rounding {took}; use `--dtype f32`{better}",
            kind.name()
        ))
    }
}

/// The number of lanes that are computed together.
pub(super) const LANES: usize = 8;

/// Counts and sums in lanes of every eighth number, so that a processor computes eight at once.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    changed: [u32; LANES],
    not_finite: [u32; LANES],
    added: [f32; LANES],
    lost: [f32; LANES],
    lost_in_f16: [f32; LANES],
    lost_in_bf16: [f32; LANES],
}

impl Lanes {
    /// Adds numbers: the old ones, those with the change added, and these as stored in `To`.
    /// Rounding that the type would apply to the old number anyway does not count as lost.
    #[allow(
        clippy::float_cmp,
        reason = "a number that was stored as another one is what is counted"
    )]
    #[inline]
    pub fn take<To: Number>(
        &mut self,
        old: &[f32; LANES],
        sum: &[f32; LANES],
        stored: &[f32; LANES],
    ) {
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
            let lost = lost(old[lane], sum[lane], To::nearest(old[lane]), stored[lane]);
            self.lost[lane] += lost * lost;
        }
        for lane in 0..LANES {
            let lost = lost(
                old[lane],
                sum[lane],
                F16::nearest(old[lane]),
                F16::nearest(sum[lane]),
            );
            self.lost_in_f16[lane] += lost * lost;
        }
        for lane in 0..LANES {
            let lost = lost(
                old[lane],
                sum[lane],
                Bf16::nearest(old[lane]),
                Bf16::nearest(sum[lane]),
            );
            self.lost_in_bf16[lane] += lost * lost;
        }
    }

    /// Combines all lanes, for this many numbers.
    pub fn tally(&self, numbers: u64) -> Tally {
        let (count, sum) = (
            |lanes: &[u32]| lanes.iter().sum::<u32>().into(),
            |lanes: &[f32]| lanes.iter().copied().map(f64::from).sum(),
        );
        let (changed, not_finite) = (count(&self.changed), count(&self.not_finite));
        Tally {
            numbers,
            changed,
            not_finite,
            added: sum(&self.added),
            lost: sum(&self.lost),
            lost_in_f16: sum(&self.lost_in_f16),
            lost_in_bf16: sum(&self.lost_in_bf16),
            ..Tally::default()
        }
    }
}

/// Returns the part of a change that is lost when both of its ends are rounded.
#[inline]
pub(super) fn lost(old: f32, sum: f32, old_rounded: f32, sum_rounded: f32) -> f32 {
    (sum - old) - (sum_rounded - old_rounded)
}

/// Returns the square of what `Q8_0` loses of the changes in whole blocks; for other numbers what
/// f16 loses.
pub(super) fn lost_in_q8_0(old: &[f32], sum: &[f32]) -> f64 {
    let kind = match BlockFormat::Q8_0 {
        blocks if old.len().is_multiple_of(blocks.numbers()) => TensorType::Blocks(blocks),
        _ => TensorType::F16,
    };
    let (old_rounded, sum_rounded) = (kind.nearest(old), kind.nearest(sum));
    let all = old
        .iter()
        .zip(sum)
        .zip(old_rounded.iter().zip(&sum_rounded));
    all.map(|((old, sum), (old_rounded, sum_rounded))| {
        f64::from(lost(*old, *sum, *old_rounded, *sum_rounded)).powi(2)
    })
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::float::F32;

    fn tally(old: f32, sum: f32, stored: f32) -> Tally {
        let mut lanes = Lanes::default();
        let first = |number: f32| std::array::from_fn(|lane| if lane == 0 { number } else { 1.0 });
        lanes.take::<F32>(&first(old), &first(sum), &first(stored));
        lanes.tally(LANES as u64)
    }

    #[test]
    fn rounding_is_what_is_missing_of_the_change() {
        let mut total = tally(1.0, 1.25, 1.0);
        assert_eq!(
            (total.numbers, total.changed, total.rounding()),
            (8, 0, Some(1.0))
        );
        total.add(&tally(1.0, 4.0, 4.0));
        assert_eq!((total.numbers, total.changed, total.not_finite), (16, 1, 0));
        assert!(total.rounding().expect("something was added") < 0.1);
        assert_eq!(Tally::default().rounding(), None);
        assert_eq!(Tally::default().rounding_note(GgmlType::Bf16), None);
        assert_eq!(
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX]
                .map(|stored| tally(1.0, 1.0, stored).not_finite),
            [1, 1, 1, 0]
        );
    }

    #[test]
    fn a_note_names_the_type_that_keeps_the_change() {
        // Steps of bfloat16 at 1 are 2^-7, of float16 2^-10: a change of 2^-9 is a quarter of the
        // one and twice the other.
        let note = |change: f32, kind: GgmlType| {
            tally(1.0, 1.0 + change, 1.0 + change).rounding_note(kind)
        };
        let quarter = 2f32.powi(-9);
        assert_eq!(note(quarter, GgmlType::F16), None);
        let said = "bfloat16 rounding removed 100 % of the adapter's change; use `--dtype f32` (or \
            f16: 0 %)";
        assert_eq!(note(quarter, GgmlType::Bf16).as_deref(), Some(said));
        assert_eq!(note(quarter, GgmlType::F32), None);
        let said = "float16 rounding removed 100 % of the adapter's change; use `--dtype f32`";
        assert_eq!(note(2f32.powi(-13), GgmlType::F16).as_deref(), Some(said));
        assert_eq!(
            note(0.05, GgmlType::Bf16),
            None,
            "{:?}",
            tally(1.0, 1.05, 1.05).rounding_in(GgmlType::Bf16)
        );
        // What becomes of the old number too is no part of the change.
        let third = 1.0f32 / 3.0;
        assert_eq!(
            tally(third, third + 0.25, third + 0.25).rounding_note(GgmlType::Bf16),
            None
        );
        let half = Tally {
            added: 1.0,
            lost_in_q8_0: 4.0,
            lost_in_f16: 0.01,
            lost_in_bf16: 0.25,
            ..Tally::default()
        };
        let said = "Q8_0 rounding changes the weights 2.0 times as much as the adapter does; use \
            `--dtype f32` (or f16: 10 %)";
        assert_eq!(half.rounding_note(GgmlType::Q8_0).as_deref(), Some(said));
    }
}
