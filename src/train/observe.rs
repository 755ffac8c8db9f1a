//! Observers of a step. They see the training itself: there is no second step beside the real one.
//! A step without an observer costs nothing more, because `()` observes by doing nothing.

use burn::tensor::{DType, Tensor};

/// A border between blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Border {
    /// The output of the block at an index, on the way forward.
    Output(usize),
    /// The gradient of the output of the block at an index, on the way back.
    Gradient(usize),
}

/// Sees what a step passes on, and may replace it.
pub trait Observer {
    /// Receives what passes a border, [1, tokens, width].
    fn border(&mut self, _: Border, value: Tensor<3>) -> Tensor<3> {
        value
    }

    /// Receives a micro-batch's gradients of consecutive weights, from the one at an index of the
    /// decoder's order, each in memory order.
    fn weights(&mut self, _first: usize, gradients: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
        gradients
    }
}

impl Observer for () {}

/// Steps of a process in which gradients between blocks are checked to be finite. A wrong kernel is
/// wrong from the start; a later step shows in the norm of its gradients.
const CHECKED_STEPS: u64 = 10;

/// Checks that the gradients between blocks are finite. A sum is finite if all its numbers are, and
/// is all that is read: one number per block. It is taken along one dimension after the other,
/// because on CUDA the sum of a whole tensor uses atomic additions, in any order.
#[derive(Debug)]
pub(super) struct FiniteBorders {
    is_checked: bool,
    sums: Vec<(usize, Tensor<3>)>,
}

impl FiniteBorders {
    /// Makes the check for the step after `taken` steps of this process.
    pub fn after(taken: u64) -> Self {
        Self {
            is_checked: taken < CHECKED_STEPS,
            sums: Vec::new(),
        }
    }

    /// Returns the first block on the way back whose gradient was not finite. It is read when all
    /// work is queued, so that a device does not wait between blocks.
    pub fn first_not_finite(&self) -> Option<usize> {
        let is_finite = |sum: &Tensor<3>| sum.to_data().iter::<f32>().all(f32::is_finite);
        self.sums
            .iter()
            .find(|(_, sum)| !is_finite(sum))
            .map(|(block, _)| *block)
    }
}

impl Observer for FiniteBorders {
    fn border(&mut self, border: Border, value: Tensor<3>) -> Tensor<3> {
        if let (true, Border::Gradient(block)) = (self.is_checked, border) {
            // The sum of finite numbers of 16 bits may be none of them.
            self.sums
                .push((block, value.clone().cast(DType::F32).sum_dim(2).sum_dim(1)));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;

    use super::super::micro_batch::{Goal, StepConfig, observed};
    use super::super::walk::Memory;
    use super::super::{Gradients, TrainError};
    use super::*;
    use crate::adapter::{LoraConfig, attach};
    use crate::data::{Batch, TokenRow};
    use crate::model::DecoderSpec;
    use crate::objective::{NextToken, Objective, StepStatistics};
    use crate::terms::ModelDtype;

    fn row(values: [f32; 3]) -> Tensor<3> {
        Tensor::<1>::from_data(values, &Device::flex()).reshape([1, 1, 3])
    }

    #[test]
    fn the_first_block_into_which_no_number_went_is_named_in_the_first_steps() {
        let wrong = [
            [1.0, f32::NAN, 2.0],
            [f32::INFINITY, f32::NEG_INFINITY, 0.0],
            [0.0, f32::INFINITY, f32::MIN],
        ];
        for wrong in wrong {
            for (taken, expected) in [
                (0, Some(1)),
                (CHECKED_STEPS - 1, Some(1)),
                (CHECKED_STEPS, None),
            ] {
                let mut borders = FiniteBorders::after(taken);
                for (block, values) in [(2, [1.0, -1.0, 3.0]), (1, wrong), (0, wrong)] {
                    borders.border(Border::Output(block), row(wrong));
                    borders.border(Border::Gradient(block), row(values));
                }
                assert_eq!(
                    borders.first_not_finite(),
                    expected,
                    "{wrong:?} after {taken} steps"
                );
            }
        }
    }

    /// An observer that spoils the gradient of a block whose backward is wrong.
    struct Wrong(FiniteBorders);

    impl Observer for Wrong {
        fn border(&mut self, border: Border, value: Tensor<3>) -> Tensor<3> {
            let value = if border == Border::Gradient(0) {
                value.mul_scalar(f32::NAN)
            } else {
                value
            };
            self.0.border(border, value)
        }
    }

    #[test]
    fn a_real_step_is_seen_and_the_error_names_the_block() {
        let config = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/archs/llama/model/config.json");
        let spec = DecoderSpec::read(&config).expect("a config");
        let mut decoder = spec
            .draw(1, ModelDtype::Auto, &Device::flex())
            .expect("drawn");
        attach(&mut decoder, &LoraConfig::all_linear(2, 4.0), 1, None).expect("attached");
        let batch = Batch::new([(
            0,
            TokenRow {
                ids: vec![1, 2, 3, 4],
                trained: vec![true; 4],
            },
        )]);
        let step = StepConfig {
            memory: Memory::KEEP,
            head_chunk_rows: 4,
            dropout: 0.0,
        };
        let statistics = StepStatistics::default();
        let goal = Goal::of(&Objective::NextToken(NextToken::PLAIN), &statistics);
        let (mut right, mut wrong) = (FiniteBorders::after(0), Wrong(FiniteBorders::after(0)));
        observed(
            &decoder,
            &batch,
            goal,
            step,
            [0, 0],
            &mut Gradients::default(),
            &mut right,
        );
        assert_eq!(
            (right.sums.len(), right.first_not_finite()),
            (decoder.blocks.len(), None)
        );
        let loss = observed(
            &decoder,
            &batch,
            goal,
            step,
            [0, 0],
            &mut Gradients::default(),
            &mut wrong,
        );
        let block = wrong.0.first_not_finite();
        assert_eq!(block, Some(0));
        let error = TrainError::Diverged {
            step: 1,
            in_a_row: 1,
            loss: loss.sum,
            grad_norm: f64::NAN,
            block,
            checkpoint: None,
        };
        let said = "gradient norm NaN, first into `model.layers.0` on the way back); weights were \
            not updated";
        assert!(error.to_string().contains(said), "{error}");
    }
}
