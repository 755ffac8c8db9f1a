//! The matrix product of a training step.
//!
//! Every product of the model goes through [`matmul`], forward and backward, so that the
//! floating-point operations of a step can be counted: a frozen weight costs 4 per token and
//! parameter (no gradient of the weight), an adapter's 6.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use super::base::{Base, Packed, Placement};
use super::gemm::{self, Matrix, Numbers};
use super::host::Host;
use super::numbers::{row_major, tensor};

/// Rows below which reading the right matrix takes most of the time, so that packing it does not
/// pay. Then burn's own product is used, whose sums are in another order.
const FEW_ROWS: usize = 8;

static FLOPS: AtomicU64 = AtomicU64::new(0);

/// Returns the floating-point operations (2 per multiply-add) of all products since the process
/// started.
pub fn product_flops() -> u64 {
    FLOPS.load(Ordering::Relaxed)
}

/// Returns `lhs · rhs` with equal leading dimensions, computed in the type of `lhs`.
///
/// The gradient of an operand exists only where that operand is tracked; an untracked one is a
/// constant.
///
/// # Shapes
/// `lhs` [.., m, k], `rhs` [.., k, n], result [.., m, n].
pub fn matmul<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
    let given = lhs.dtype();
    matmul_as(lhs, rhs, given)
}

/// Returns the products of pairs of untracked matrices, stacked. On the CPU each is a product of
/// its own, by the kernel of [`matmul`].
///
/// # Shapes
/// `lhs` [n, m, k], `rhs` [n, k, l], result [n, m, l].
pub fn matmul_each(lhs: Tensor<3>, rhs: Tensor<3>) -> Tensor<3> {
    let count = lhs.dims()[0];
    if count > 0 && Host::of(lhs.clone().slice([0..1, 0..1, 0..1]).reshape([1])).is_none() {
        return matmul(lhs, rhs);
    }
    let at = |matrices: &Tensor<3>, index: usize| {
        matrices.clone().narrow(0, index, 1).squeeze_dim::<2>(0)
    };
    Tensor::stack(
        (0..count)
            .map(|index| matmul(at(&lhs, index), at(&rhs, index)))
            .collect(),
        0,
    )
}

/// Computes [`matmul`] of untracked matrices and rounds the result to a type; sums are f32.
fn matmul_as<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>, given: DType) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Product>::product(
        lhs.into_dispatch(),
        rhs.into_dispatch(),
        given,
    ))
}

/// Returns `lhs · rhs` of an untracked matrix and a base's, in a type.
///
/// # Shapes
/// `lhs` [m, k], `rhs` [k, n], result [m, n].
pub fn times(lhs: Tensor<2>, rhs: Base, given: DType) -> Tensor<2> {
    match rhs {
        Base::Dense(rhs) => matmul_as(lhs, rhs, given),
        Base::Packed(rhs) => Tensor::from_dispatch(<Dispatch as Product>::product_with_packed(
            lhs.into_dispatch(),
            rhs,
            given,
        )),
    }
}

/// A product that is counted.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Product: Backend {
    /// See [`matmul_as`].
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, given: DType) -> FloatTensor<Self>;

    /// See [`times`].
    fn product_with_packed(lhs: FloatTensor<Self>, rhs: Packed, given: DType) -> FloatTensor<Self>;
}

/// One product of a sum; the right matrix may be given in pieces, one below the other.
pub(super) type Term<T> = (T, Vec<Base<T>>);

/// A wanted matrix: some sums of products, their columns side by side, and a matrix to add to all
/// of it. A product is computed in the type of its left matrix.
#[derive(Debug)]
pub(super) struct ProductInputs<T> {
    pub sums: Vec<Vec<Term<T>>>,
    pub added: Option<T>,
    /// Whether the result is f32 whatever the type of the products, as for the gradient of a
    /// weight.
    pub is_wide: bool,
}

impl<T> ProductInputs<T> {
    /// Makes a sum of products.
    pub fn sum(terms: Vec<Term<T>>) -> Self {
        Self::side_by_side(vec![terms], None)
    }

    /// Makes sums beside each other, added to what is given.
    pub fn side_by_side(sums: Vec<Vec<Term<T>>>, added: Option<T>) -> Self {
        Self {
            sums,
            added,
            is_wide: false,
        }
    }

    /// Makes the gradient of a weight.
    pub fn of_weight(left: T, right: T) -> Self {
        Self {
            is_wide: true,
            ..Self::sum(vec![(left, vec![Base::Dense(right)])])
        }
    }

    fn map<U>(self, mut of: impl FnMut(T) -> U) -> ProductInputs<U> {
        let mut term = |(left, right): Term<T>| {
            (
                of(left),
                right.into_iter().map(|piece| piece.map(&mut of)).collect(),
            )
        };
        let sums = self
            .sums
            .into_iter()
            .map(|terms| terms.into_iter().map(&mut term).collect())
            .collect();
        ProductInputs {
            sums,
            added: self.added.map(of),
            is_wide: self.is_wide,
        }
    }

    fn terms(&self) -> impl Iterator<Item = &Term<T>> {
        self.sums.iter().flatten()
    }
}

/// Products that are computed together, and counted too.
pub(super) trait Products: Product {
    /// Computes matrices none of which depends on another.
    fn products(wanted: Vec<ProductInputs<FloatTensor<Self>>>) -> Vec<FloatTensor<Self>>;
}

impl Product for Flex {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, _: DType) -> FloatTensor<Self> {
        count_product::<Self>(&lhs, &rhs);
        if lhs.shape().num_dims() != 2 || rhs.shape().num_dims() != 2 {
            return Self::float_matmul(lhs, rhs);
        }
        let wanted = ProductInputs::sum(vec![(lhs, vec![Base::Dense(rhs)])]);
        if has_few_rows(&wanted) {
            composed::<Self>(wanted, in_f32)
        } else {
            by_kernel(vec![wanted]).remove(0)
        }
    }

    fn product_with_packed(lhs: FloatTensor<Self>, rhs: Packed, _: DType) -> FloatTensor<Self> {
        <Self as Products>::products(vec![ProductInputs::sum(vec![(
            lhs,
            vec![Base::Packed(rhs)],
        )])])
        .remove(0)
    }
}

impl Products for Flex {
    fn products(wanted: Vec<ProductInputs<FloatTensor<Self>>>) -> Vec<FloatTensor<Self>> {
        wanted.iter().for_each(count_wanted::<Self>);
        if !wanted.iter().any(has_few_rows) {
            return by_kernel(wanted);
        }
        let each = |wanted| {
            if has_few_rows(&wanted) {
                composed::<Self>(wanted, in_f32)
            } else {
                by_kernel(vec![wanted]).remove(0)
            }
        };
        wanted.into_iter().map(each).collect()
    }
}

/// Computes flex's product, which is in f32.
fn in_f32(lhs: FloatTensor<Flex>, rhs: Base<FloatTensor<Flex>>, _: DType) -> FloatTensor<Flex> {
    match rhs {
        Base::Dense(rhs) => Flex::float_matmul(lhs, rhs),
        Base::Packed(_) => unreachable!("our own kernel takes what is packed"),
    }
}

fn has_few_rows(wanted: &ProductInputs<FloatTensor<Flex>>) -> bool {
    let is_f32 = |right: &Base<FloatTensor<Flex>>| {
        right
            .dense()
            .is_some_and(|right| right.dtype() == DType::F32)
    };
    wanted.terms().flat_map(|(_, right)| right).all(is_f32)
        && wanted.terms().all(|(left, _)| left.shape()[0] < FEW_ROWS)
}

/// Computes products with our own kernel.
fn by_kernel(wanted: Vec<ProductInputs<FloatTensor<Flex>>>) -> Vec<FloatTensor<Flex>> {
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|wanted| {
            ProductInputs {
                added: wanted.added.map(row_major),
                ..wanted
            }
            .map(in_rows_or_columns)
        })
        .collect();
    let borrowed: Vec<gemm::ProductSum> = wanted.iter().map(borrow).collect();
    gemm::matrices(&borrowed)
        .into_iter()
        .zip(&wanted)
        .map(|(numbers, wanted)| {
            let rows = wanted.sums[0][0].0.shape()[0];
            let columns: usize = wanted
                .sums
                .iter()
                .map(|terms| terms[0].1[0].shape()[1])
                .sum();
            tensor(numbers, [rows, columns].into())
        })
        .collect()
}

fn borrow(
    ProductInputs { sums, added, .. }: &ProductInputs<FloatTensor<Flex>>,
) -> gemm::ProductSum<'_> {
    gemm::ProductSum {
        sums: sums
            .iter()
            .map(|terms| terms.iter().map(borrow_term).collect())
            .collect(),
        added: added.as_ref().map(|added| matrix(added, added.storage())),
    }
}

fn borrow_term((left, right): &Term<FloatTensor<Flex>>) -> gemm::Product<'_> {
    (
        matrix(left, left.storage()),
        right.iter().map(numbers).collect(),
    )
}

fn numbers(right: &Base<FloatTensor<Flex>>) -> Matrix<Numbers<'_>> {
    match right {
        Base::Dense(tensor) if tensor.dtype() == DType::BF16 => {
            matrix(tensor, tensor.storage()).map(Numbers::Bf16)
        }
        Base::Dense(tensor) => matrix(tensor, tensor.storage()).map(Numbers::F32),
        Base::Packed(packed) => packed_matrix(packed),
    }
}

fn packed_matrix(packed: &Packed) -> Matrix<Numbers<'_>> {
    let ([rows, columns], turned) = (packed.dims(), packed.is_turned());
    let stride = if turned { rows } else { columns };
    match packed.kept() {
        Placement::Host(weight) => {
            let numbers = Numbers::Packed {
                weight,
                start: packed.kept_rows().start * stride,
            };
            Matrix {
                numbers,
                rows,
                columns,
                stride,
                turned,
            }
        }
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        Placement::Gpu(_) => unreachable!("its left matrix is on the CPU"),
    }
}

/// Returns a matrix whose rows or whose columns are contiguous.
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
    Matrix {
        numbers,
        rows: shape[0],
        columns: shape[1],
        stride: stride.unsigned_abs(),
        turned,
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Product for burn::backend::Cube {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, given: DType) -> FloatTensor<Self> {
        count_product::<Self>(&lhs, &rhs);
        super::cube::product(lhs, rhs, given)
    }

    fn product_with_packed(lhs: FloatTensor<Self>, rhs: Packed, given: DType) -> FloatTensor<Self> {
        let rhs = Base::Packed(rhs);
        count_base::<Self>(&lhs, &rhs);
        on_gpu(lhs, rhs, given)
    }
}

/// Computes a product on a GPU. A packed matrix is unpacked to the left matrix's type, in memory
/// that goes back to its pool with the product.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn on_gpu(
    lhs: FloatTensor<burn::backend::Cube>,
    rhs: Base<FloatTensor<burn::backend::Cube>>,
    given: DType,
) -> FloatTensor<burn::backend::Cube> {
    let rhs = match rhs {
        Base::Dense(rhs) => rhs,
        Base::Packed(packed) => {
            let Placement::Gpu(weight) = packed.kept() else {
                unreachable!("its left matrix is on a GPU")
            };
            let numbers = super::cube::packed::unpack(weight, packed.kept_rows(), lhs.dtype());
            if packed.is_turned() {
                burn::backend::Cube::float_transpose(numbers)
            } else {
                numbers
            }
        }
    };
    super::cube::product(lhs, rhs, given)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Products for burn::backend::Cube {
    fn products(wanted: Vec<ProductInputs<FloatTensor<Self>>>) -> Vec<FloatTensor<Self>> {
        wanted.iter().for_each(count_wanted::<Self>);
        wanted
            .into_iter()
            .map(|wanted| composed::<Self>(wanted, on_gpu))
            .collect()
    }
}

impl<B: Backend + Product, C: CheckpointStrategy> Product for Autodiff<B, C> {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, given: DType) -> FloatTensor<Self> {
        // An operand is needed in backward only for the gradient of the other one.
        let lhs_kept = rhs.is_tracked().then(|| lhs.primitive().clone());
        let rhs_kept = lhs.is_tracked().then(|| rhs.primitive().clone());
        let (lhs, lhs_node) = lhs.into_parts();
        let (rhs, rhs_node) = rhs.into_parts();
        let output = B::product(lhs, rhs, given);
        match ProductBackward
            .prepare::<C>([lhs_node, rhs_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((lhs_kept, rhs_kept), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn product_with_packed(lhs: FloatTensor<Self>, rhs: Packed, given: DType) -> FloatTensor<Self> {
        assert!(!lhs.is_tracked(), "a tracked matrix goes through `adapted`");
        <Self as burn::backend::AutodiffBackend>::from_inner(B::product_with_packed(
            lhs.into_parts().0,
            rhs,
            given,
        ))
    }
}

/// The backward: dL = dY Rᵀ, dR = Lᵀ dY.
#[derive(Debug)]
struct ProductBackward;

impl<B: Backend + Product> Backward<B, 2> for ProductBackward {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (lhs, rhs) = ops.state;
        binary::<B, _, _>(
            ops.parents,
            ops.node,
            grads,
            |grad| {
                let given = grad.dtype();
                B::product(
                    grad,
                    B::float_transpose(rhs.expect("kept because lhs is tracked")),
                    given,
                )
            },
            |grad| {
                let given = grad.dtype();
                B::product(
                    B::float_transpose(lhs.expect("kept because rhs is tracked")),
                    grad,
                    given,
                )
            },
        );
    }
}

/// A function that computes a product in a type.
type Multiply<B> = fn(FloatTensor<B>, Base<FloatTensor<B>>, DType) -> FloatTensor<B>;

/// Computes a wanted matrix, product by product.
fn composed<B: Backend>(
    ProductInputs {
        sums,
        added,
        is_wide,
    }: ProductInputs<FloatTensor<B>>,
    product: Multiply<B>,
) -> FloatTensor<B> {
    let of_terms = |terms: Vec<Term<FloatTensor<B>>>| {
        let products = terms.into_iter().flat_map(|(left, right)| {
            let mut before = 0;
            right.into_iter().map(move |piece| {
                let depth = before..before + piece.shape()[0];
                before = depth.end;
                let left = columns_of::<B>(&left, depth);
                let given = if is_wide { DType::F32 } else { left.dtype() };
                product(left, piece, given)
            })
        });
        products.reduce(B::float_add).expect("a sum has a term")
    };
    let mut sums: Vec<_> = sums.into_iter().map(of_terms).collect();
    // A concatenation of one would be a copy of it.
    let matrix = if sums.len() == 1 {
        sums.remove(0)
    } else {
        B::float_cat(sums, 1)
    };
    match added {
        Some(added) => B::float_add(matrix, added),
        None => matrix,
    }
}

/// Returns some columns of a matrix.
pub(super) fn columns_of<B: Backend>(
    matrix: &FloatTensor<B>,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let [rows, width] = matrix.shape().dims();
    if columns == (0..width) {
        matrix.clone()
    } else {
        B::float_slice(matrix.clone(), &[(0..rows).into(), columns.into()])
    }
}

fn count_wanted<B: Backend>(wanted: &ProductInputs<FloatTensor<B>>) {
    for (left, right) in wanted.terms() {
        count_base::<B>(left, &right[0]);
    }
}

fn count_base<B: Backend>(lhs: &FloatTensor<B>, rhs: &Base<FloatTensor<B>>) {
    count(lhs.shape().iter().product::<usize>() * rhs.shape()[1]);
}

fn count_product<B: Backend>(lhs: &FloatTensor<B>, rhs: &FloatTensor<B>) {
    let columns = *rhs
        .shape()
        .iter()
        .next_back()
        .expect("a product has two dimensions at least");
    count(lhs.shape().iter().product::<usize>() * columns);
}

/// Counts multiply-adds of another operation.
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
        let x = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device)
            .autodiff()
            .require_grad();
        let w = Tensor::<2>::from_data([[5.0, 6.0], [7.0, 8.0]], &device);
        let y = matmul(x.clone(), w.clone());
        y.inner().into_data().assert_eq(
            &burn::tensor::TensorData::from([[19.0f32, 22.0], [43.0, 50.0]]),
            true,
        );
        let gradients = matmul(x.clone(), w.clone()).sum().backward();
        let dx = x.grad(&gradients).expect("x is tracked");
        dx.into_data().assert_eq(
            &burn::tensor::TensorData::from([[11.0f32, 15.0], [11.0, 15.0]]),
            true,
        );
        assert!(w.grad(&gradients).is_none());
    }
}
