//! Linear maps that share an input, and the conversion of their tensors to those of a backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType,
};
use burn::tensor::Tensor;

use crate::ops::base::Base;

/// A linear map with an optional adapter.
#[derive(Debug, Clone)]
pub struct Linear<T = Tensor<2>> {
    /// The weight, [in, out].
    pub weight: Base<T>,
    /// The adapter, which is added to the weight.
    pub adapter: Option<Adapter<T>>,
}

/// The adapter of a linear map.
#[derive(Debug, Clone)]
pub struct Adapter<T = Tensor<2>> {
    /// The matrix A, [in, r].
    pub a: T,
    /// The matrix B, [r, out].
    pub b: T,
    /// The factor of the product.
    pub scale: f64,
}

/// Maps that share an input, and what their result is added to.
#[derive(Debug, Clone)]
pub struct Linears<T = Tensor<2>> {
    /// The maps, at least one.
    pub maps: Vec<Linear<T>>,
    /// The tensor to which the result is added, [tokens, out of all].
    pub onto: Option<T>,
}

impl<T> Linears<T> {
    /// Applies `of` to every tensor.
    pub(super) fn map<U>(self, mut of: impl FnMut(T) -> U) -> Linears<U> {
        let maps = self.maps.into_iter().map(|Linear { weight, adapter }| {
            let weight = weight.map(&mut of);
            let adapter = adapter.map(|Adapter { a, b, scale }| Adapter {
                a: of(a),
                b: of(b),
                scale,
            });
            Linear { weight, adapter }
        });
        Linears {
            maps: maps.collect(),
            onto: self.onto.map(of),
        }
    }

    /// Returns the adapters, in the order of their maps.
    pub(super) fn adapters(&self) -> impl Iterator<Item = &Adapter<T>> {
        self.maps.iter().filter_map(|map| map.adapter.as_ref())
    }
}

/// The maps of some rows, which follow on those of the group before.
#[derive(Debug, Clone)]
pub struct Group<T = Tensor<2>> {
    /// Number of rows.
    pub rows: usize,
    /// The maps; they have equal widths in all groups.
    pub linears: Linears<T>,
}

/// All [`Group`]s, in tensors of a backend.
#[derive(Debug, Clone)]
pub struct Groups<B: Backend>(pub(super) Vec<Group<FloatTensor<B>>>);

impl<B: Backend> Groups<B> {
    fn tensors(&self) -> impl Iterator<Item = &Linears<FloatTensor<B>>> {
        self.0.iter().map(|group| &group.linears)
    }
}

/// Applies `of` to every tensor of the groups.
pub(super) fn map<T, U>(groups: Vec<Group<T>>, mut of: impl FnMut(T) -> U) -> Vec<Group<U>> {
    groups
        .into_iter()
        .map(|Group { rows, linears }| Group {
            rows,
            linears: linears.map(&mut of),
        })
        .collect()
}

impl<B: Backend> ExtensionType<B> for Groups<B> {
    type Target = Groups<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        Groups(map(self.0, |tensor| DispatchTensor {
            kind: map_kind(BackendTensor::Float(tensor)),
            autodiff,
        }))
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Self(map(target.0, |tensor| unwrap_kind(tensor).float()))
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        Self::routing_float_tensor(target)
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target
            .tensors()
            .find_map(|linears| linears.maps.iter().find_map(|map| map.weight.dense()))
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let mut context = DispatchAutodiffContext::Disabled;
        map(target.0.clone(), |tensor| {
            context = context.merge(tensor.autodiff);
        });
        context
    }
}
