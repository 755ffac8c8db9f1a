//! Loss scaling: gradients in float16 are computed times a power of two, so that small ones are not lost below 6e-8 and large ones stay
//! below 65504 (Micikevicius et al. 2018, arXiv:1710.03740).

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

/// What a run begins with. Gradients are of a sum over tokens, not of a mean, so it need not make up for the number of tokens.
const FIRST: u32 = 8;
const LARGEST: u32 = 15;
/// Steps after which a larger one is tried.
const PATIENCE: u64 = 500;

/// What gradients are multiplied by while they are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// It is 2 to this power.
    exponent: u32,
    /// Steps since it was last changed.
    steps: u64,
}

impl LossScale {
    /// That of training in such numbers, which goes on from `before`.
    pub fn of(computed: DType, before: Option<Self>) -> Self {
        match computed {
            DType::F16 => before.unwrap_or(Self { exponent: FIRST, steps: 0 }),
            _ => Self { exponent: 0, steps: 0 },
        }
    }

    /// The factor.
    pub fn factor(self) -> f64 {
        f64::from(1_u32 << self.exponent)
    }

    /// What the state of a run keeps: nothing where gradients are as they are.
    pub(super) fn kept(self) -> Option<Self> {
        (self.exponent > 0 || self.steps > 0).then_some(self)
    }

    /// Half of it, for gradients that were not finite; `None` where that does not help.
    pub(super) fn halved(self) -> Option<Self> {
        self.exponent.checked_sub(1).map(|exponent| Self { exponent, steps: 0 })
    }

    /// After a step whose gradients were finite.
    #[must_use]
    pub(super) fn after_step(self, computed: DType) -> Self {
        match computed {
            DType::F16 if self.steps + 1 == PATIENCE && self.exponent < LARGEST => Self { exponent: self.exponent + 1, steps: 0 },
            DType::F16 => Self { steps: self.steps + 1, ..self },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_halved_at_once_and_doubled_with_patience() {
        let start = LossScale::of(DType::F16, None);
        assert_eq!(start.factor().to_bits(), 256_f64.to_bits());
        let half = start.halved().expect("there is room");
        assert_eq!(half.factor().to_bits(), 128_f64.to_bits());
        let later = (1..PATIENCE).fold(half, |scale, _| scale.after_step(DType::F16));
        assert_eq!(later.factor().to_bits(), half.factor().to_bits());
        assert_eq!(later.after_step(DType::F16), start);
        let least = (0..FIRST).fold(start, |scale, _| scale.halved().expect("there is room"));
        assert_eq!((least.factor().to_bits(), least.halved()), (1_f64.to_bits(), None));
        let most = (0..100 * PATIENCE).fold(start, |scale, _| scale.after_step(DType::F16));
        assert_eq!(most.factor().to_bits(), 32_768_f64.to_bits());
        assert_eq!(LossScale::of(DType::F16, Some(later)), later);
    }

    #[test]
    fn numbers_with_the_range_of_32_bits_need_none() {
        for computed in [DType::F32, DType::BF16] {
            let scale = LossScale::of(computed, Some(LossScale::of(DType::F16, None)));
            assert_eq!(
                (scale.factor().to_bits(), scale.after_step(computed).kept(), scale.halved()),
                (1_f64.to_bits(), None, None)
            );
        }
    }
}
