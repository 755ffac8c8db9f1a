//! Loss scaling: gradients in float16 are computed times a power of two, so that small ones are not
//! lost below 6e-8 and large ones stay below 65504 (Micikevicius et al. 2018, arXiv:1710.03740).

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use super::step::StepOutcome;

/// The exponent at the start of a run. Gradients are of a sum over tokens, not of a mean, so the
/// scale need not make up for the number of tokens.
const FIRST: u32 = 8;
const LARGEST: u32 = 15;
/// Steps after which a larger scale is tried.
const PATIENCE: u64 = 500;

/// The factor of gradients in float16 while they are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// The scale is 2 to this power.
    exponent: u32,
    /// Steps since the scale last changed.
    steps: u64,
}

impl LossScale {
    /// Returns the scale for training in this type, which goes on from `before`; `None` where
    /// gradients are not scaled.
    pub fn of(computed: DType, before: Option<Self>) -> Option<Self> {
        (computed == DType::F16).then(|| {
            before.unwrap_or(Self {
                exponent: FIRST,
                steps: 0,
            })
        })
    }

    /// Returns the factor; 1 without a scale.
    pub fn factor(scale: Option<Self>) -> f64 {
        scale.map_or(1.0, |scale| f64::from(1_u32 << scale.exponent))
    }

    /// Returns half of the scale for a step that was skipped although its loss is finite: its
    /// gradients may be finite there. `None` where the step is not repeated.
    pub(super) fn to_retry(scale: Option<Self>, outcome: &StepOutcome) -> Option<Self> {
        scale
            .filter(|_| outcome.is_skipped() && outcome.loss.is_finite())?
            .halved()
    }

    /// Returns a note about a step that is repeated at this scale.
    pub(super) fn note(self, step: u64) -> String {
        let half = Self::factor(Some(self));
        format!(
            "step {step} has no finite gradients: the loss scale is halved to {half}, and it \
            is taken again"
        )
    }

    fn halved(self) -> Option<Self> {
        self.exponent
            .checked_sub(1)
            .map(|exponent| Self { exponent, steps: 0 })
    }

    /// Returns the scale after a step whose gradients were finite.
    pub(super) fn after_step(self) -> Self {
        if self.steps + 1 >= PATIENCE && self.exponent < LARGEST {
            Self {
                exponent: self.exponent + 1,
                steps: 0,
            }
        } else {
            Self {
                steps: self.steps + 1,
                ..self
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::Update;
    use super::*;
    use crate::objective::Figures;

    fn outcome(is_skipped: bool, loss: f64) -> StepOutcome {
        let update = if is_skipped {
            Update::Skipped { block: None }
        } else {
            Update::Made
        };
        StepOutcome {
            step: 7,
            loss,
            figures: Figures::default(),
            grad_norm: 1.0,
            learning_rate: 0.0,
            tokens: 1,
            trained_tokens: 1,
            seconds: 1.0,
            update,
        }
    }

    /// Returns the scales at which a step is tried where gradients are finite up to `most`, and
    /// whether it is skipped in the end.
    fn tried(mut scale: Option<LossScale>, most: f64, loss: f64) -> (Vec<f64>, bool) {
        let mut tried = Vec::new();
        loop {
            let factor = LossScale::factor(scale);
            tried.push(factor);
            let outcome = outcome(factor > most, loss);
            let Some(half) = LossScale::to_retry(scale, &outcome) else {
                return (tried, outcome.is_skipped());
            };
            scale = Some(half);
        }
    }

    #[test]
    fn a_step_beyond_float16_is_taken_again_at_half_the_scale() {
        let start = LossScale::of(DType::F16, None);
        assert_eq!(tried(start, 64.0, 2.0), (vec![256.0, 128.0, 64.0], false));
        assert_eq!(tried(start, 1e9, 2.0), (vec![256.0], false));
        let half = LossScale {
            exponent: 7,
            steps: 0,
        };
        assert_eq!(LossScale::to_retry(start, &outcome(true, 2.0)), Some(half));
        let said = "step 7 has no finite gradients: the loss scale is halved to 128, and it is \
            taken again";
        assert_eq!(
            (half.note(7).as_str(), half.after_step()),
            (
                said,
                LossScale {
                    exponent: 7,
                    steps: 1
                }
            )
        );
    }

    #[test]
    fn what_no_scale_helps_is_skipped() {
        let start = LossScale::of(
            DType::F16,
            Some(LossScale {
                exponent: 3,
                steps: 5,
            }),
        );
        assert_eq!(tried(start, 0.0, 2.0), (vec![8.0, 4.0, 2.0, 1.0], true));
        assert_eq!(
            tried(start, 0.0, f64::NAN),
            (vec![8.0], true),
            "a loss is not scaled"
        );
    }

    #[test]
    fn it_grows_with_patience_and_ends() {
        let start = LossScale::of(DType::F16, None).expect("float16 has one");
        let later = (1..PATIENCE).fold(start, |scale, _| scale.after_step());
        assert_eq!(
            (later.exponent, later.after_step()),
            (
                FIRST,
                LossScale {
                    exponent: FIRST + 1,
                    steps: 0
                }
            )
        );
        let most = (0..100 * PATIENCE).fold(start, |scale, _| scale.after_step());
        assert_eq!(
            LossScale::factor(Some(most)).to_bits(),
            32_768_f64.to_bits()
        );
    }

    #[test]
    fn numbers_with_the_range_of_32_bits_have_none() {
        for computed in [DType::F32, DType::BF16] {
            let scale = LossScale::of(
                computed,
                Some(LossScale {
                    exponent: 3,
                    steps: 5,
                }),
            );
            assert_eq!(scale, None);
            assert_eq!(tried(scale, 0.0, 2.0), (vec![1.0], true));
        }
    }
}
