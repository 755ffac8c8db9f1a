//! Linear maps of one input, and the way of their tensors to a backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType,
};
use burn::tensor::Tensor;

use crate::ops::base::Base;

/// A linear map, and its adapter where it has one.
#[derive(Debug, Clone)]
pub struct Linear<T = Tensor<2>> {
    /// [in, out].
    pub weight: Base<T>,
    /// What is added to it.
    pub adapter: Option<Adapter<T>>,
}

/// The adapter of a linear map.
#[derive(Debug, Clone)]
pub struct Adapter<T = Tensor<2>> {
    /// [in, r].
    pub a: T,
    /// [r, out].
    pub b: T,
    /// What the product is multiplied by.
    pub scale: f64,
}

/// Maps of one input, and what their result is added to.
#[derive(Debug, Clone)]
pub struct Linears<T = Tensor<2>> {
    /// One at least.
    pub maps: Vec<Linear<T>>,
    /// [tokens, out of all].
    pub onto: Option<T>,
}

impl<T> Linears<T> {
    /// The same of other tensors.
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

    /// The adapters, in the order of their maps.
    pub(super) fn adapters(&self) -> impl Iterator<Item = &Adapter<T>> {
        self.maps.iter().filter_map(|map| map.adapter.as_ref())
    }
}

/// The maps of some rows that follow on those of the group before.
#[derive(Debug, Clone)]
pub struct Group<T = Tensor<2>> {
    /// How many rows.
    pub rows: usize,
    /// Their maps; of all groups as wide.
    pub linears: Linears<T>,
}

/// All [`Group`]s of a backend.
#[derive(Debug, Clone)]
pub struct Groups<B: Backend>(pub(super) Vec<Group<FloatTensor<B>>>);

impl<B: Backend> Groups<B> {
    fn tensors(&self) -> impl Iterator<Item = &Linears<FloatTensor<B>>> {
        self.0.iter().map(|group| &group.linears)
    }
}

/// The same groups of other tensors.
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
            context = context.merge(tensor.autodiff)
        });
        context
    }
}
