//! Linear maps of one input with their low-rank adapters, y = x W + s · drop(x) A B, as one operation with a backward of its own.
//!
//! Maps that share an input (query, key and value; gate and up) are one product whose columns lie side by side: threads are called once,
//! and x gets one gradient. An adapter's product is added while a tile of y is in the cache, in backward too, and the tape keeps x and
//! the narrow s · drop(x) A only.

mod backward;
mod group;
#[cfg(test)]
mod tests;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};

pub use self::group::{Adapter, Group, Linear, Linears};
use super::base::Base;
use super::dropout::{KeyedDropout, Mask};
use super::product::{Products, Wanted, columns_of};

/// x W + scale · drop(x) A B, Hu et al. 2021, arXiv:2106.09685, of each map, and all of it onto what is given.
///
/// # Shapes
/// `x` [tokens, in], result [tokens, out of all maps], in their order; a mask has as many tokens.
pub fn adapted(x: Tensor<2>, linears: Linears, mask: Option<&Mask>) -> Tensor<2> {
    let linears = Group(linears.map(Tensor::into_dispatch));
    Tensor::from_dispatch(<Dispatch as Adapted>::adapted(x.into_dispatch(), linears, mask.cloned()))
}

/// Linear maps with adapters.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Adapted: Backend {
    /// See [`adapted`].
    fn adapted(x: FloatTensor<Self>, #[extension_type] linears: Group<Self>, mask: Option<Mask>) -> FloatTensor<Self>;
}

impl Adapted for Flex {
    fn adapted(x: FloatTensor<Self>, linears: Group<Self>, mask: Option<Mask>) -> FloatTensor<Self> {
        forward::<Self>(&x, &linears.0, mask).0
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Adapted for burn::backend::Cube {
    fn adapted(x: FloatTensor<Self>, linears: Group<Self>, mask: Option<Mask>) -> FloatTensor<Self> {
        forward::<Self>(&x, &linears.0, mask).0
    }
}

impl<B: Backend + Adapted + Products + KeyedDropout, C: CheckpointStrategy> Adapted for Autodiff<B, C> {
    fn adapted(x: FloatTensor<Self>, linears: Group<Self>, mask: Option<Mask>) -> FloatTensor<Self> {
        backward::record::<B, C>(x, linears.0, mask)
    }
}

/// The result, and the narrow s · drop(x) A of all adapters side by side, [tokens, ranks].
fn forward<B: Products + KeyedDropout>(
    x: &FloatTensor<B>,
    linears: &Linears<FloatTensor<B>>,
    mask: Option<Mask>,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let narrow = linears.adapters().next().is_some().then(|| {
        let x = dropped::<B>(x, mask);
        let sums = linears.adapters().map(|adapter| vec![(x.clone(), vec![Base::Dense(adapter.a.clone())])]).collect();
        scaled::<B>(product::<B>(Wanted::side_by_side(sums, None)), linears)
    });
    let mut rank = 0;
    let sums = linears.maps.iter().map(|Linear { weight, adapter }| {
        let mut terms = vec![(x.clone(), vec![weight.clone()])];
        if let (Some(adapter), Some(narrow)) = (adapter, &narrow) {
            let ranks = rank..rank + adapter.b.shape()[0];
            rank = ranks.end;
            terms.push((columns_of::<B>(narrow, ranks), vec![Base::Dense(adapter.b.clone())]));
        }
        terms
    });
    (product::<B>(Wanted::side_by_side(sums.collect(), linears.onto.clone())), narrow)
}

fn product<B: Products>(wanted: Wanted<FloatTensor<B>>) -> FloatTensor<B> {
    B::products(vec![wanted]).pop().expect("one was wanted")
}

fn dropped<B: KeyedDropout>(x: &FloatTensor<B>, mask: Option<Mask>) -> FloatTensor<B> {
    match mask {
        Some(mask) => B::keyed_dropout(x.clone(), mask),
        None => x.clone(),
    }
}

/// Each adapter's columns times its scale, [tokens, ranks].
fn scaled<B: Backend>(narrow: FloatTensor<B>, linears: &Linears<FloatTensor<B>>) -> FloatTensor<B> {
    let mut scales = linears.adapters().map(|adapter| adapter.scale);
    let first = scales.next().expect("what is narrow is of an adapter");
    if scales.all(|scale| scale.to_bits() == first.to_bits()) {
        return B::float_mul_scalar(narrow, first.into());
    }
    let columns = linears.adapters().flat_map(|adapter| vec![adapter.scale as f32; adapter.b.shape()[0]]);
    let columns = TensorData::new(columns.collect(), [1, narrow.shape()[1]]);
    let columns = B::float_cast(B::float_from_data(columns, &narrow.device()), narrow.dtype().into());
    B::float_mul(narrow, columns)
}
