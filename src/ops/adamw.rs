//! One update of AdamW over flat rows of numbers: Loshchilov and Hutter 2019, arXiv:1711.05101, as
//! in torch.
//!
//! ```text
//! m ← β₁ m + (1 - β₁) g        v ← β₂ v + (1 - β₂) g²
//! w ← (1 - η λ) w - η / (1 - β₁ᵗ) m / (√v / √(1 - β₂ᵗ) + ε)
//! ```
//!
//! On the CPU it takes two passes: one only checks that all results are finite, and one writes them
//! in place. So an update needs no memory, and changes every number or none.
#![allow(
    clippy::result_large_err,
    reason = "what is handed back is the state, not the story of an error"
)]

use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flat::PIECE;
use super::host::Host;

/// Values that all numbers of an update share.
#[derive(Debug, Clone, Copy)]
pub struct AdamWRule {
    /// β₁, decay of the first moment.
    pub beta1: f64,
    /// β₂, decay of the second moment.
    pub beta2: f64,
    /// ε, added to the root of the second moment.
    pub epsilon: f64,
    /// The factor that is applied to gradients first: a mean and a clip in one.
    pub gradient_scale: f64,
    /// t, the number of the update, from 1.
    pub update: u64,
}

/// The numbers of one weight within the flat rows, and its rates.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Range of the numbers.
    pub place: Range<usize>,
    /// η, the learning rate.
    pub learning_rate: f64,
    /// λ, the weight decay.
    pub weight_decay: f64,
}

/// The tensors that an update changes.
#[derive(Debug)]
pub struct AdamWState {
    /// The weights, one per segment, each [its length].
    pub weights: Vec<Tensor<1>>,
    /// The first moment m, [n].
    pub first: Tensor<1>,
    /// The second moment v, [n].
    pub second: Tensor<1>,
}

impl AdamWRule {
    /// Returns the formula's constants for a segment, in the precision of the numbers.
    pub(super) fn constants(&self, segment: &Segment) -> Constants {
        let power = i32::try_from(self.update).unwrap_or(i32::MAX);
        let (correction1, correction2) =
            (1.0 - self.beta1.powi(power), 1.0 - self.beta2.powi(power));
        Constants {
            scale: self.gradient_scale as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            root2: correction2.sqrt() as f32,
            epsilon: self.epsilon as f32,
            step: (segment.learning_rate / correction1) as f32,
            keep: (1.0 - segment.learning_rate * segment.weight_decay) as f32,
        }
    }
}

/// Returns the state after an update by gradients [n]. `segments` are in the order of the weights,
/// and cover the flat rows.
///
/// # Errors
/// A weight or a moment would not be finite; the error holds the unchanged state.
pub fn adamw(
    state: AdamWState,
    gradients: Tensor<1>,
    segments: &[Segment],
    rule: AdamWRule,
) -> Result<AdamWState, AdamWState> {
    match Host::of(gradients.clone()) {
        Some(gradients) => on_host(state, gradients.numbers(), segments, rule),
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        None => super::cube::adamw::adamw(state, gradients, segments, rule),
        #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
        None => unreachable!("this build has no device but the CPU"),
    }
}

fn on_host(
    state: AdamWState,
    gradients: &[f32],
    segments: &[Segment],
    rule: AdamWRule,
) -> Result<AdamWState, AdamWState> {
    let host = |tensor| Host::of(tensor).expect("beside its gradients");
    let mut weights: Vec<Host> = state.weights.into_iter().map(host).collect();
    let [mut first, mut second] = [state.first, state.second].map(host);
    let mut in_order: Vec<_> = segments
        .iter()
        .zip(weights.iter_mut().map(Host::numbers_mut))
        .collect();
    in_order.sort_by_key(|(segment, _)| segment.place.start);
    let pieces = pieces(
        in_order,
        gradients,
        [first.numbers_mut(), second.numbers_mut()],
        rule,
    );
    let is_finite = pieces.par_iter().all(RowPiece::stays_finite);
    if is_finite {
        pieces.into_par_iter().for_each(RowPiece::update);
    }
    let weights = weights.into_iter().map(Host::into_tensor).collect();
    let state = AdamWState {
        weights,
        first: first.into_tensor(),
        second: second.into_tensor(),
    };
    if is_finite { Ok(state) } else { Err(state) }
}

/// Cuts the flat rows and the weights beside them, in their order, into pieces for the threads.
fn pieces<'a>(
    weights: Vec<(&Segment, &'a mut [f32])>,
    mut gradients: &'a [f32],
    [mut first, mut second]: [&'a mut [f32]; 2],
    rule: AdamWRule,
) -> Vec<RowPiece<'a>> {
    let mut pieces = Vec::new();
    for (segment, weight) in weights {
        let (constants, length) = (rule.constants(segment), weight.len());
        let gradients = gradients
            .split_off(..length)
            .expect("a gradient for each number");
        let [first, second] = [&mut first, &mut second].map(|row| {
            row.split_off_mut(..length)
                .expect("moments for each number")
        });
        let moments = first.chunks_mut(PIECE).zip(second.chunks_mut(PIECE));
        let numbers = weight
            .chunks_mut(PIECE)
            .zip(gradients.chunks(PIECE))
            .zip(moments);
        pieces.extend(
            numbers.map(|((weight, gradient), (first, second))| RowPiece {
                constants,
                weight,
                gradient,
                first,
                second,
            }),
        );
    }
    pieces
}

/// The formula's constants in the precision of the numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    pub(super) scale: f32,
    pub(super) beta1: f32,
    pub(super) rest1: f32,
    pub(super) beta2: f32,
    pub(super) rest2: f32,
    /// √(1 - β₂ᵗ).
    pub(super) root2: f32,
    pub(super) epsilon: f32,
    /// η / (1 - β₁ᵗ).
    pub(super) step: f32,
    /// 1 - η λ.
    pub(super) keep: f32,
}

impl Constants {
    /// Returns w, m and v after the update.
    #[inline]
    fn updated(&self, weight: f32, gradient: f32, first: f32, second: f32) -> [f32; 3] {
        let gradient = gradient * self.scale;
        let first = first * self.beta1 + gradient * self.rest1;
        let second = second * self.beta2 + gradient * gradient * self.rest2;
        let denominator = second.sqrt() / self.root2 + self.epsilon;
        [
            weight * self.keep - first * self.step / denominator,
            first,
            second,
        ]
    }
}

/// The rows that a thread updates at a time; they have equal lengths.
struct RowPiece<'a> {
    constants: Constants,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl RowPiece<'_> {
    /// Whether all results of the update are finite.
    fn stays_finite(&self) -> bool {
        let numbers = self
            .weight
            .iter()
            .zip(self.gradient)
            .zip(self.first.iter().zip(&*self.second));
        // Without a branch, so that several numbers are looked at in one instruction.
        let open = numbers.fold(0, |open, ((weight, gradient), (first, second))| {
            let updated = self.constants.updated(*weight, *gradient, *first, *second);
            updated
                .iter()
                .fold(open, |open, number| open | u32::from(!number.is_finite()))
        });
        open == 0
    }

    fn update(self) {
        let numbers = self
            .weight
            .iter_mut()
            .zip(self.gradient)
            .zip(self.first.iter_mut().zip(self.second));
        for ((weight, gradient), (first, second)) in numbers {
            [*weight, *first, *second] =
                self.constants.updated(*weight, *gradient, *first, *second);
        }
    }
}

/// Updates with a device's own operations, into new tensors.
#[cfg(test)]
fn on_device(
    state: AdamWState,
    gradients: Tensor<1>,
    segments: &[Segment],
    rule: AdamWRule,
) -> Result<AdamWState, AdamWState> {
    let mut in_order: Vec<_> = segments.iter().zip(&state.weights).collect();
    in_order.sort_by_key(|(segment, _)| segment.place.start);
    let weights = Tensor::cat(
        in_order
            .iter()
            .map(|(_, weight)| (*weight).clone())
            .collect(),
        0,
    );
    let runs = in_order.chunk_by(|(left, _), (right, _)| left.goes_with(right));
    let updated = runs.map(|run| {
        let (constants, place) = (
            rule.constants(run[0].0),
            run[0].0.place.start..run[run.len() - 1].0.place.end,
        );
        let of_run = |row: &Tensor<1>| row.clone().slice([place.clone()]);
        let gradient = of_run(&gradients).mul_scalar(constants.scale);
        let first = of_run(&state.first).mul_scalar(constants.beta1)
            + gradient.clone().mul_scalar(constants.rest1);
        let second = of_run(&state.second).mul_scalar(constants.beta2)
            + gradient.square().mul_scalar(constants.rest2);
        let denominator = second
            .clone()
            .sqrt()
            .div_scalar(constants.root2)
            .add_scalar(constants.epsilon);
        [
            of_run(&weights).mul_scalar(constants.keep)
                - first.clone().mul_scalar(constants.step) / denominator,
            first,
            second,
        ]
    });
    let updated: Vec<[Tensor<1>; 3]> = updated.collect();
    let [weights, first, second] =
        [0, 1, 2].map(|row| Tensor::cat(updated.iter().map(|run| run[row].clone()).collect(), 0));
    let is_finite = |row: &Tensor<1>| {
        row.clone()
            .is_finite()
            .all()
            .into_data()
            .iter::<bool>()
            .all(|is_finite| is_finite)
    };
    if ![&weights, &first, &second].into_iter().all(is_finite) {
        return Err(state);
    }
    let weights = segments
        .iter()
        .map(|segment| weights.clone().slice([segment.place.clone()]))
        .collect();
    Ok(AdamWState {
        weights,
        first,
        second,
    })
}

#[cfg(test)]
impl Segment {
    /// Whether it has the same rates as its neighbor.
    fn goes_with(&self, other: &Self) -> bool {
        let rates = |segment: &Self| {
            [
                segment.learning_rate.to_bits(),
                segment.weight_decay.to_bits(),
            ]
        };
        rates(self) == rates(other)
    }
}

#[cfg(test)]
mod tests;
