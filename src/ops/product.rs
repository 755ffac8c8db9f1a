//! The matrix product of a training step.
//!
//! Every product of the model goes through [`matmul`], forward and backward, so that the floating-point operations of a step
//! can be counted: a frozen weight costs 4 a token and parameter (no gradient of the weight), an adapter's 6.

use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};

use super::gemm::{Matrix, Numbers, sum_of_products};

/// Rows below which a product is bound by reading the right matrix, so that packing it does not pay: burn's own product takes it, whose
/// sums are of another order.
const FEW_ROWS: usize = 8;

static FLOPS: AtomicU64 = AtomicU64::new(0);

/// Floating-point operations (2 a multiply-add) of all products since the process started.
pub fn product_flops() -> u64 {
    FLOPS.load(Ordering::Relaxed)
}

/// `lhs · rhs` with equal leading dimensions.
///
/// The gradient of an operand exists only where that operand is tracked; an untracked one is a constant.
///
/// # Shapes
/// `lhs` [.., m, k], `rhs` [.., k, n], result [.., m, n].
pub fn matmul<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Product>::product(lhs.into_dispatch(), rhs.into_dispatch()))
}

/// A product that is counted.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Product: Backend {
    /// See [`matmul`].
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Sums of products, counted too.
pub(super) trait ProductSum: Product {
    /// `lhs[0] · rhs[0] + lhs[1] · rhs[1]`, matrices.
    fn product_sum(lhs: [FloatTensor<Self>; 2], rhs: [FloatTensor<Self>; 2]) -> FloatTensor<Self>;
}

impl Product for Flex {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        count_product::<Self>(&lhs, &rhs);
        summed([lhs], [rhs]).unwrap_or_else(|([lhs], [rhs])| Self::float_matmul(lhs, rhs))
    }
}

impl ProductSum for Flex {
    fn product_sum(lhs: [FloatTensor<Self>; 2], rhs: [FloatTensor<Self>; 2]) -> FloatTensor<Self> {
        lhs.iter().zip(&rhs).for_each(|(lhs, rhs)| count_product::<Self>(lhs, rhs));
        summed(lhs, rhs).unwrap_or_else(|(lhs, rhs)| composed_sum::<Self>(lhs, rhs))
    }
}

/// The sum of the products by our own kernel; what it was given where that is not for it: few rows, or more than two dimensions.
#[allow(clippy::type_complexity, reason = "twice what it takes")]
fn summed<const N: usize>(
    lhs: [FloatTensor<Flex>; N],
    rhs: [FloatTensor<Flex>; N],
) -> Result<FloatTensor<Flex>, ([FloatTensor<Flex>; N], [FloatTensor<Flex>; N])> {
    let shape = [lhs[0].shape(), rhs[0].shape()];
    let is_f32 = rhs.iter().all(|rhs| rhs.dtype() == DType::F32);
    if shape[0].num_dims() != 2 || shape[1].num_dims() != 2 || (shape[0][0] < FEW_ROWS && is_f32) {
        return Err((lhs, rhs));
    }
    let (lhs, rhs) = (lhs.map(in_rows_or_columns), rhs.map(in_rows_or_columns));
    let products: [_; N] = std::array::from_fn(|index| {
        let left = matrix(&lhs[index], lhs[index].storage());
        let right = match rhs[index].dtype() {
            DType::BF16 => matrix(&rhs[index], rhs[index].storage()).map(Numbers::Bf16),
            _ => matrix(&rhs[index], rhs[index].storage()).map(Numbers::F32),
        };
        (left, right)
    });
    let sum = TensorData::new(sum_of_products(&products), [shape[0][0], shape[1][1]]);
    Ok(Flex::float_from_data(sum, &lhs[0].device()))
}

/// A matrix whose rows or whose columns lie in one piece.
fn in_rows_or_columns(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    match tensor.layout().strides() {
        [stride, 1] | [1, stride] if *stride > 0 => tensor,
        _ => tensor.to_contiguous(),
    }
}

fn matrix<'a, T>(tensor: &FloatTensor<Flex>, storage: &'a [T]) -> Matrix<&'a [T]> {
    let (layout, shape) = (tensor.layout(), tensor.shape());
    let numbers = &storage[layout.start_offset()..];
    let (turned, stride) = match layout.strides() {
        [stride, 1] => (false, *stride),
        [_, stride] | [stride, ..] => (true, *stride),
        [] => (false, 1),
    };
    Matrix { numbers, rows: shape[0], columns: shape[1], stride: stride.unsigned_abs(), turned }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Product for burn::backend::Cube {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        count_product::<Self>(&lhs, &rhs);
        Self::float_matmul(lhs, rhs)
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl ProductSum for burn::backend::Cube {
    fn product_sum(lhs: [FloatTensor<Self>; 2], rhs: [FloatTensor<Self>; 2]) -> FloatTensor<Self> {
        lhs.iter().zip(&rhs).for_each(|(lhs, rhs)| count_product::<Self>(lhs, rhs));
        composed_sum::<Self>(lhs, rhs)
    }
}

impl<B: Backend + Product, C: CheckpointStrategy> Product for Autodiff<B, C> {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        // An operand is needed in backward only for the gradient of the other one.
        let lhs_kept = rhs.is_tracked().then(|| lhs.primitive().clone());
        let rhs_kept = lhs.is_tracked().then(|| rhs.primitive().clone());
        let (lhs, lhs_node) = lhs.into_parts();
        let (rhs, rhs_node) = rhs.into_parts();
        let output = B::product(lhs, rhs);
        match ProductBackward.prepare::<C>([lhs_node, rhs_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((lhs_kept, rhs_kept), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

/// dL = dY Rᵀ, dR = Lᵀ dY.
#[derive(Debug)]
struct ProductBackward;

impl<B: Backend + Product> Backward<B, 2> for ProductBackward {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (lhs, rhs) = ops.state;
        binary::<B, _, _>(
            ops.parents,
            ops.node,
            grads,
            |grad| B::product(grad, B::float_transpose(rhs.expect("kept because lhs is tracked"))),
            |grad| B::product(B::float_transpose(lhs.expect("kept because rhs is tracked")), grad),
        );
    }
}

fn composed_sum<B: Backend>([one, other]: [FloatTensor<B>; 2], [of_one, of_other]: [FloatTensor<B>; 2]) -> FloatTensor<B> {
    B::float_add(B::float_matmul(one, of_one), B::float_matmul(other, of_other))
}

fn count_product<B: Backend>(lhs: &FloatTensor<B>, rhs: &FloatTensor<B>) {
    let columns = *rhs.shape().iter().next_back().expect("a product has two dimensions at least");
    let multiply_adds: usize = lhs.shape().iter().product::<usize>() * columns;
    FLOPS.fetch_add(2 * multiply_adds as u64, Ordering::Relaxed);
}

/// Counts what another operation multiplies.
pub(super) fn count(multiply_adds: usize) {
    FLOPS.fetch_add(2 * multiply_adds as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn gradients_are_those_of_the_product_rule_and_constants_have_none() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device).autodiff().require_grad();
        let w = Tensor::<2>::from_data([[5.0, 6.0], [7.0, 8.0]], &device);
        let y = matmul(x.clone(), w.clone());
        y.inner().into_data().assert_eq(&burn::tensor::TensorData::from([[19.0f32, 22.0], [43.0, 50.0]]), true);
        let gradients = matmul(x.clone(), w.clone()).sum().backward();
        let dx = x.grad(&gradients).expect("x is tracked");
        dx.into_data().assert_eq(&burn::tensor::TensorData::from([[11.0f32, 15.0], [11.0, 15.0]]), true);
        assert!(w.grad(&gradients).is_none());
    }
}
