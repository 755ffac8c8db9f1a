//! Loss scaling: gradients in float16 are computed times a power of two, so that small ones are not lost below 6e-8 and large ones stay
//! below 65504 (Micikevicius et al. 2018, arXiv:1710.03740).

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use crate::report::Step;

/// What a run begins with. Gradients are of a sum over tokens, not of a mean, so it need not make up for the number of tokens.
const FIRST: u32 = 8;
const LARGEST: u32 = 15;
/// Steps after which a larger one is tried.
const PATIENCE: u64 = 500;

/// What gradients in float16 are multiplied by while they are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// It is 2 to this power.
    exponent: u32,
    /// Steps since it was last changed.
    steps: u64,
}

impl LossScale {
    /// That of training in such numbers, which goes on from `before`; none where gradients are as they are.
    pub fn of(computed: DType, before: Option<Self>) -> Option<Self> {
        (computed == DType::F16).then(|| before.unwrap_or(Self { exponent: FIRST, steps: 0 }))
    }

    /// The factor; 1 without a scale.
    pub fn factor(scale: Option<Self>) -> f64 {
        scale.map_or(1.0, |scale| f64::from(1_u32 << scale.exponent))
    }

    /// A step at a scale, taken again at half of it while its loss is finite and its gradients are not: nothing of such a step is kept, so
    /// no row is left out. The scale of the next step follows, as it was where the step is skipped at the last.
    pub(super) fn carry<T>(
        scale: Option<Self>,
        mut attempt: impl FnMut(f64) -> (Step, T),
        note: impl Fn(String),
    ) -> (Step, T, Option<Self>) {
        let mut tried = scale;
        loop {
            let (step, beside) = attempt(Self::factor(tried));
            match tried.and_then(Self::halved) {
                Some(half) if step.skipped && step.loss.is_finite() => tried = Some(half),
                _ => {
                    let next = if step.skipped { scale } else { tried.map(Self::after_step) };
                    return (step, beside, next);
                }
            }
            let (step, half) = (step.step, Self::factor(tried));
            note(format!("step {step} has no finite gradients: the loss scale is halved to {half}, and it is taken again"));
        }
    }

    fn halved(self) -> Option<Self> {
        self.exponent.checked_sub(1).map(|exponent| Self { exponent, steps: 0 })
    }

    /// After a step whose gradients were finite.
    fn after_step(self) -> Self {
        if self.steps + 1 >= PATIENCE && self.exponent < LARGEST {
            Self { exponent: self.exponent + 1, steps: 0 }
        } else {
            Self { steps: self.steps + 1, ..self }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn step(skipped: bool, loss: f64) -> Step {
        Step {
            step: 7,
            epoch: 0.0,
            loss,
            learning_rate: 0.0,
            grad_norm: 1.0,
            tokens: 1,
            trained_tokens: 1,
            tokens_per_second: 1.0,
            peak_memory_bytes: None,
            device_peak_memory_bytes: None,
            skipped,
        }
    }

    /// The scales that a step is tried at where it holds up to `most`, whether it is skipped, the scale after it, and what was said.
    fn carried(scale: Option<LossScale>, most: f64, loss: f64) -> (Vec<f64>, bool, Option<LossScale>, Vec<String>) {
        let (mut tried, notes) = (Vec::new(), RefCell::new(Vec::new()));
        let attempt = |scale| {
            tried.push(scale);
            (step(scale > most, loss), ())
        };
        let (taken, (), next) = LossScale::carry(scale, attempt, |note| notes.borrow_mut().push(note));
        (tried, taken.skipped, next, notes.into_inner())
    }

    #[test]
    fn a_step_beyond_float16_is_taken_again_at_half_the_scale() {
        let start = LossScale::of(DType::F16, None);
        let (tried, skipped, next, notes) = carried(start, 64.0, 2.0);
        assert_eq!((tried, skipped), (vec![256.0, 128.0, 64.0], false));
        assert_eq!(next, Some(LossScale { exponent: 6, steps: 1 }));
        let said = "step 7 has no finite gradients: the loss scale is halved to 128, and it is taken again";
        assert_eq!((notes.len(), notes[0].as_str()), (2, said));
        assert_eq!(carried(start, 1e9, 2.0), (vec![256.0], false, Some(LossScale { exponent: 8, steps: 1 }), Vec::new()));
    }

    #[test]
    fn what_no_scale_helps_is_skipped_and_leaves_it_as_it_was() {
        let start = LossScale::of(DType::F16, Some(LossScale { exponent: 3, steps: 5 }));
        let (tried, skipped, next, _) = carried(start, 0.0, 2.0);
        assert_eq!((tried, skipped, next), (vec![8.0, 4.0, 2.0, 1.0], true, start));
        let (tried, skipped, next, notes) = carried(start, 0.0, f64::NAN);
        assert_eq!((tried, skipped, next, notes.len()), (vec![8.0], true, start, 0), "a loss is not scaled");
    }

    #[test]
    fn it_grows_with_patience_and_ends() {
        let start = LossScale::of(DType::F16, None).expect("float16 has one");
        let later = (1..PATIENCE).fold(start, |scale, _| scale.after_step());
        assert_eq!((later.exponent, later.after_step()), (FIRST, LossScale { exponent: FIRST + 1, steps: 0 }));
        let most = (0..100 * PATIENCE).fold(start, |scale, _| scale.after_step());
        assert_eq!(LossScale::factor(Some(most)).to_bits(), 32_768_f64.to_bits());
    }

    #[test]
    fn numbers_with_the_range_of_32_bits_have_none() {
        for computed in [DType::F32, DType::BF16] {
            let scale = LossScale::of(computed, Some(LossScale { exponent: 3, steps: 5 }));
            assert_eq!(scale, None);
            assert_eq!(carried(scale, 0.0, 2.0), (vec![1.0], true, None, Vec::new()));
        }
    }
}
