//! Linear maps that share an input, with their low-rank adapters, y = x W + s · drop(x) A B, as one
//! operation with a backward of its own.
//!
//! Maps that share an input (query, key and value; gate and up) are one product whose columns lie
//! side by side: threads are called once, and x gets one gradient. An adapter's product is added
//! while a tile of y is in the cache, also in backward, and the tape keeps only x and the narrow s
//! · drop(x) A.
//!
//! Rows may belong to several groups with maps of their own, as tokens belong to the experts to
//! which they are sent.

mod backward;
mod group;
#[cfg(test)]
mod tests;

use std::ops::Range;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};

pub use self::group::{Adapter, Group, Groups, Linear, Linears};
use super::base::Base;
use super::dropout::{KeyedDropout, Mask};
use super::product::{ProductInputs, Products, columns_of};

/// Computes x W + scale · drop(x) A B, Hu et al. 2021, arXiv:2106.09685, for each map, and adds all
/// of it to what is given.
///
/// # Shapes
/// `x` [tokens, in], result [tokens, out of all maps], in their order; a mask has as many tokens.
pub fn adapted(x: Tensor<2>, linears: Linears, mask: Option<&Mask>) -> Tensor<2> {
    let group = Group {
        rows: x.dims()[0],
        linears,
    };
    adapted_by_group(x, vec![group], mask)
}

/// Computes [`adapted`] for rows in groups, each with maps of its own. What trains in the maps of a
/// group without rows gets gradients of 0.
///
/// # Shapes
/// `x` [rows of all groups, in], result [rows, out of all maps of a group]; a mask has as many
/// tokens.
///
/// # Panics
/// Several groups are to be added to what is given.
pub fn adapted_by_group(x: Tensor<2>, groups: Vec<Group>, mask: Option<&Mask>) -> Tensor<2> {
    assert!(
        groups.len() == 1 || groups.iter().all(|group| group.linears.onto.is_none()),
        "groups go onto nothing"
    );
    let groups = Groups(group::map(groups, Tensor::into_dispatch));
    Tensor::from_dispatch(<Dispatch as Adapted>::adapted(
        x.into_dispatch(),
        groups,
        mask.cloned(),
    ))
}

/// Linear maps with adapters.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Adapted: Backend {
    /// See [`adapted_by_group`].
    fn adapted(
        x: FloatTensor<Self>,
        #[extension_type] groups: Groups<Self>,
        mask: Option<Mask>,
    ) -> FloatTensor<Self>;
}

impl Adapted for Flex {
    fn adapted(
        x: FloatTensor<Self>,
        groups: Groups<Self>,
        mask: Option<Mask>,
    ) -> FloatTensor<Self> {
        forward_groups::<Self>(&x, &groups.0, mask.as_ref()).0
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Adapted for burn::backend::Cube {
    fn adapted(
        x: FloatTensor<Self>,
        groups: Groups<Self>,
        mask: Option<Mask>,
    ) -> FloatTensor<Self> {
        forward_groups::<Self>(&x, &groups.0, mask.as_ref()).0
    }
}

impl<B: Backend + Adapted + Products + KeyedDropout, C: CheckpointStrategy> Adapted
    for Autodiff<B, C>
{
    fn adapted(
        x: FloatTensor<Self>,
        groups: Groups<Self>,
        mask: Option<Mask>,
    ) -> FloatTensor<Self> {
        backward::record::<B, C>(x, groups.0, mask)
    }
}

/// Returns the results of all groups one below the other, and what [`forward`] gives in addition to
/// each; nothing for a group without rows.
fn forward_groups<B: Products + KeyedDropout>(
    x: &FloatTensor<B>,
    groups: &[Group<FloatTensor<B>>],
    mask: Option<&Mask>,
) -> (FloatTensor<B>, Vec<Option<FloatTensor<B>>>) {
    let (mut outputs, mut narrows) = (Vec::new(), Vec::new());
    for (rows, group) in placed(groups) {
        if rows.is_empty() {
            narrows.push(None);
            continue;
        }
        let mask = mask.map(|mask| mask.of(rows.clone()));
        let (output, narrow) = forward::<B>(&rows_of::<B>(x, rows), &group.linears, mask);
        outputs.push(output);
        narrows.push(narrow);
    }
    let output = if outputs.len() == 1 {
        outputs.remove(0)
    } else {
        B::float_cat(outputs, 0)
    };
    (output, narrows)
}

/// Returns each group with its range of rows.
fn placed<T>(groups: &[Group<T>]) -> impl Iterator<Item = (Range<usize>, &Group<T>)> {
    groups.iter().scan(0, |before, group| {
        let rows = *before..*before + group.rows;
        *before = rows.end;
        Some((rows, group))
    })
}

/// Returns some rows of a matrix.
fn rows_of<B: Backend>(matrix: &FloatTensor<B>, rows: Range<usize>) -> FloatTensor<B> {
    let [count, width] = matrix.shape().dims();
    if rows == (0..count) {
        matrix.clone()
    } else {
        B::float_slice(matrix.clone(), &[rows.into(), (0..width).into()])
    }
}

/// Returns the result, and the narrow s · drop(x) A of all adapters side by side, [tokens, ranks].
fn forward<B: Products + KeyedDropout>(
    x: &FloatTensor<B>,
    linears: &Linears<FloatTensor<B>>,
    mask: Option<Mask>,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let narrow = linears.adapters().next().is_some().then(|| {
        let x = dropped::<B>(x, mask);
        let sums = linears
            .adapters()
            .map(|adapter| vec![(x.clone(), vec![Base::Dense(adapter.a.clone())])])
            .collect();
        scaled::<B>(
            product::<B>(ProductInputs::side_by_side(sums, None)),
            linears,
        )
    });
    let mut rank = 0;
    let sums = linears.maps.iter().map(|Linear { weight, adapter }| {
        let mut terms = vec![(x.clone(), vec![weight.clone()])];
        if let (Some(adapter), Some(narrow)) = (adapter, &narrow) {
            let ranks = rank..rank + adapter.b.shape()[0];
            rank = ranks.end;
            terms.push((
                columns_of::<B>(narrow, ranks),
                vec![Base::Dense(adapter.b.clone())],
            ));
        }
        terms
    });
    (
        product::<B>(ProductInputs::side_by_side(
            sums.collect(),
            linears.onto.clone(),
        )),
        narrow,
    )
}

fn product<B: Products>(wanted: ProductInputs<FloatTensor<B>>) -> FloatTensor<B> {
    B::products(vec![wanted]).pop().expect("one was wanted")
}

fn dropped<B: KeyedDropout>(x: &FloatTensor<B>, mask: Option<Mask>) -> FloatTensor<B> {
    match mask {
        Some(mask) => B::keyed_dropout(x.clone(), mask),
        None => x.clone(),
    }
}

/// Multiplies each adapter's columns with its scale, [tokens, ranks].
fn scaled<B: Backend>(narrow: FloatTensor<B>, linears: &Linears<FloatTensor<B>>) -> FloatTensor<B> {
    let mut scales = linears.adapters().map(|adapter| adapter.scale);
    let first = scales.next().expect("what is narrow is of an adapter");
    if scales.all(|scale| scale.to_bits() == first.to_bits()) {
        return B::float_mul_scalar(narrow, first.into());
    }
    let columns = linears
        .adapters()
        .flat_map(|adapter| vec![adapter.scale as f32; adapter.b.shape()[0]]);
    let columns = TensorData::new(columns.collect(), [1, narrow.shape()[1]]);
    let columns = B::float_cast(
        B::float_from_data(columns, &narrow.device()),
        narrow.dtype().into(),
    );
    B::float_mul(narrow, columns)
}
