//! Rotary position embedding in one pass, in place, Su et al. 2021, arXiv:2104.09864, in the
//! half-split form of Hugging Face models.
//!
//! The opposite rotation undoes a rotation, so backward keeps only the tables, which all layers
//! share.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::differentiate;
use super::numbers::{piece_of_rows, read, row_major, write};
use super::simd::vectorised;

/// The direction of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The direction of forward.
    Forward,
    /// The direction of backward.
    Back,
}

/// Rotates each pair (x\[i\], x\[i + d/2\]) of a head by the angle of its token's position: (l, r)
/// becomes (l cos - r sin, r cos + l sin).
///
/// # Shapes
/// `x` [batch, sequence, heads, d], result the same; `cosines` and `sines` [length, d / 2];
/// `positions`, the tables' row for each token, [batch · sequence], or [sequence] where they are
/// those of every row.
pub fn rope(
    x: Tensor<4>,
    cosines: Tensor<2>,
    sines: Tensor<2>,
    positions: Arc<[u32]>,
) -> Tensor<4> {
    let (cosines, sines) = (cosines.into_dispatch(), sines.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Rope>::rope(
        x.into_dispatch(),
        cosines,
        sines,
        positions,
        Rotation::Forward,
    ))
}

/// The rotation.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Rope: Backend {
    /// See [`rope`].
    fn rope(
        x: FloatTensor<Self>,
        cosines: FloatTensor<Self>,
        sines: FloatTensor<Self>,
        positions: Arc<[u32]>,
        rotation: Rotation,
    ) -> FloatTensor<Self>;
}

vectorised! {
    /// Rotates the heads of one token in place; `sign` is -1 to rotate back.
    fn turn<'a, A>(heads: &'a mut [f32], cosines: &'a [f32], sines: &'a [f32], sign: f32) {
        for head in heads.chunks_exact_mut(2 * cosines.len()) {
            let (left, right) = head.split_at_mut(cosines.len());
            for (((left, right), cosine), sine) in
                left.iter_mut().zip(right).zip(cosines).zip(sines)
            {
                let (l, r, sine) = (*left, *right, sign * sine);
                (*left, *right) = (l * cosine - r * sine, r * cosine + l * sine);
            }
        }
    }
}

impl Rope for Flex {
    fn rope(
        mut x: FloatTensor<Self>,
        cosines: FloatTensor<Self>,
        sines: FloatTensor<Self>,
        positions: Arc<[u32]>,
        rotation: Rotation,
    ) -> FloatTensor<Self> {
        let (shape, half) = (x.shape(), cosines.shape()[1]);
        let (cosines, sines) = (row_major(cosines), row_major(sines));
        let (cosines, sines) = (read(&cosines), read(&sines));
        let sign = match rotation {
            Rotation::Forward => 1.0,
            Rotation::Back => -1.0,
        };
        let width = shape[2] * shape[3];
        let piece = piece_of_rows(width);
        write(&mut x)
            .par_chunks_mut(piece)
            .enumerate()
            .for_each(|(index, tokens)| {
                let first = index * (piece / width);
                for (token, heads) in tokens.chunks_exact_mut(width).enumerate() {
                    let place = positions[(first + token) % positions.len()] as usize * half;
                    turn(
                        heads,
                        &cosines[place..place + half],
                        &sines[place..place + half],
                        sign,
                    );
                }
            });
        x
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Rope for burn::backend::Cube {
    fn rope(
        x: FloatTensor<Self>,
        cosines: FloatTensor<Self>,
        sines: FloatTensor<Self>,
        positions: Arc<[u32]>,
        rotation: Rotation,
    ) -> FloatTensor<Self> {
        super::cube::rope::rope(x, [cosines, sines], &positions, rotation)
    }
}

/// Computes [`rope`] by a backend's own operations.
#[cfg(test)]
fn composed<B: Backend>(
    x: FloatTensor<B>,
    tables: [FloatTensor<B>; 2],
    positions: &[u32],
    rotation: Rotation,
) -> FloatTensor<B> {
    let (shape, device, half) = (x.shape(), x.device(), tables[0].shape()[1]);
    let [batch, sequence] = [shape[0], shape[1]];
    let indices: Vec<i32> = positions
        .iter()
        .cycle()
        .take(batch * sequence)
        .map(|position| position.cast_signed())
        .collect();
    let indices = B::int_from_data(
        burn::tensor::TensorData::new(indices, [batch * sequence]),
        &device,
    );
    let [cosines, sines] = tables.map(|table| {
        let rows = B::float_select(table, 0, indices.clone()); // [tokens, d / 2]
        B::float_reshape(rows, [batch, sequence, 1, half].into())
    });
    let sines = match rotation {
        Rotation::Forward => sines,
        Rotation::Back => B::float_neg(sines),
    };
    let part = |from: usize| {
        let all = shape.iter().take(3).map(|size| (0..*size).into());
        B::float_slice(
            x.clone(),
            &all.chain([(from..from + half).into()]).collect::<Vec<_>>(),
        )
    };
    let (left, right) = (part(0), part(half));
    let times =
        |side: &FloatTensor<B>, table: &FloatTensor<B>| B::float_mul(side.clone(), table.clone());
    let turned_left = B::float_sub(times(&left, &cosines), times(&right, &sines));
    let turned_right = B::float_add(times(&right, &cosines), times(&left, &sines));
    B::float_cat(vec![turned_left, turned_right], 3)
}

impl<B: Backend + Rope, C: CheckpointStrategy> Rope for Autodiff<B, C> {
    fn rope(
        x: FloatTensor<Self>,
        cosines: FloatTensor<Self>,
        sines: FloatTensor<Self>,
        positions: Arc<[u32]>,
        rotation: Rotation,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let [cosines, sines] = [cosines, sines].map(|table| table.into_primitive());
        let output = B::rope(
            x,
            cosines.clone(),
            sines.clone(),
            positions.clone(),
            rotation,
        );
        match RopeBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cosines, sines, positions, rotation), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

/// The backward: dX is dY rotated in the other direction.
#[derive(Debug)]
struct RopeBackward;

impl<B: Backend + Rope> Backward<B, 1> for RopeBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, Arc<[u32]>, Rotation);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        differentiate::<B, _, 1>(
            ops,
            grads,
            |(cosines, sines, positions, rotation), gradient| {
                let opposite = match rotation {
                    Rotation::Forward => Rotation::Back,
                    Rotation::Back => Rotation::Forward,
                };
                [B::rope(gradient, cosines, sines, positions, opposite)]
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::numbers::tensor;
    use super::super::simd::at_every_level;
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|index| (step * index as f32 + 0.5).sin())
            .collect()
    }

    /// Returns one token's rotated heads, in f64.
    fn exact(heads: &[f32], cosines: &[f32], sines: &[f32], sign: f64) -> Vec<f64> {
        let half = cosines.len();
        let turned = |head: &[f32], at: usize| {
            let pair = at % half;
            let [l, r, c, s] =
                [head[pair], head[half + pair], cosines[pair], sines[pair]].map(f64::from);
            if at < half {
                l * c - sign * r * s
            } else {
                r * c + sign * l * s
            }
        };
        heads
            .chunks(2 * half)
            .flat_map(|head| (0..2 * half).map(move |at| turned(head, at)))
            .collect()
    }

    fn is_close(ours: &[f32], exact: &[f64]) -> bool {
        ours.len() == exact.len()
            && ours
                .iter()
                .zip(exact)
                .all(|(ours, exact)| (f64::from(*ours) - exact).abs() < 5e-7)
    }

    #[test]
    fn every_level_is_the_closed_form() {
        for half in [1, 15, 16, 17, 64] {
            let (heads, cosines, sines) = (
                numbers(3 * 2 * half, 0.37),
                numbers(half, 0.73),
                numbers(half, 1.1),
            );
            let of_levels = at_every_level(|| {
                let mut turned = heads.clone();
                turn(&mut turned, &cosines, &sines, 1.0);
                turned
            });
            assert!(
                of_levels.iter().all(|turned| *turned == of_levels[0]),
                "no level rounds otherwise"
            );
            assert!(is_close(
                &of_levels[0],
                &exact(&heads, &cosines, &sines, 1.0)
            ));
        }
    }

    #[test]
    fn tokens_have_their_positions_and_backward_is_the_opposite_turn() {
        let ([batch, sequence, heads, width], device) = ([2, 500, 3, 32], Device::flex());
        let (half, length, row) = (width / 2, 600, heads * width);
        let (all, gradient) = (
            numbers(batch * sequence * row, 0.37),
            numbers(batch * sequence * row, 1.3),
        );
        let tables = [0.73, 1.1].map(|step| numbers(length * half, step));
        let of = |numbers: &[f32]| {
            Tensor::<4>::from_data(
                TensorData::new(numbers.to_vec(), [batch, sequence, heads, width]),
                &device,
            )
        };
        let [cosines, sines] = tables.each_ref().map(|table| {
            Tensor::<2>::from_data(TensorData::new(table.clone(), [length, half]), &device)
        });
        // Two documents in each row.
        let positions: Arc<[u32]> = (0..batch as u32)
            .flat_map(|row| (100 * row..300).chain(0..200 + 100 * row))
            .collect();
        let run = || {
            let x = of(&all).autodiff().require_grad();
            let y = rope(x.clone(), cosines.clone(), sines.clone(), positions.clone());
            let gradients = super::super::backward_from(y.clone(), of(&gradient));
            let of_x = x.grad(&gradients).expect("tracked");
            [y.inner(), of_x].map(|tensor| tensor.into_data().try_to_vec::<f32>().expect("f32"))
        };
        let [ours, of_x] = run();
        assert_eq!([ours.clone(), of_x.clone()], run());
        for (token, position) in positions.iter().enumerate() {
            let (place, at) = (*position as usize * half, token * row);
            let [cosines, sines] = tables.each_ref().map(|table| &table[place..place + half]);
            assert!(
                is_close(
                    &ours[at..at + row],
                    &exact(&all[at..at + row], cosines, sines, 1.0)
                ),
                "token {token}"
            );
            assert!(
                is_close(
                    &of_x[at..at + row],
                    &exact(&gradient[at..at + row], cosines, sines, -1.0)
                ),
                "token {token}"
            );
        }
        let tables = tables.map(|table| tensor(table, [length, half].into()));
        let composed = composed::<Flex>(
            tensor(all, [batch, sequence, heads, width].into()),
            tables,
            &positions,
            Rotation::Forward,
        );
        assert!(
            read(&composed)
                .iter()
                .zip(&ours)
                .all(|(composed, ours)| (composed - ours).abs() < 1e-6)
        );
    }

    #[test]
    fn what_is_held_elsewhere_is_not_turned() {
        let x = Tensor::<4>::ones([1, 2, 1, 2], &Device::flex());
        let table = |value: f32| Tensor::<2>::full([2, 1], value, &Device::flex());
        let turned = rope(x.clone(), table(0.0), table(1.0), [0, 1].into());
        x.into_data()
            .assert_eq(&TensorData::from([[[[1.0f32, 1.0]], [[1.0, 1.0]]]]), true);
        turned
            .into_data()
            .assert_eq(&TensorData::from([[[[-1.0f32, 1.0]], [[-1.0, 1.0]]]]), true);
    }
}
