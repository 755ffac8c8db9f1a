//! The gradients of linear maps with adapters; the gradient of x is one product over all maps.

use std::ops::Range;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata};
use burn::tensor::DType;

use super::group::{self, Group, Linear, Linears};
use super::{dropped, forward_groups, placed, product, rows_of, scaled};
use crate::ops::base::Base;
use crate::ops::dropout::{KeyedDropout, Mask};
use crate::ops::product::{ProductInputs, Products, columns_of};

/// The operand of a gradient; a number is the index of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    X,
    Weight(usize),
    A(usize),
    B(usize),
    Onto,
}

/// What backward needs of a group: x where a weight or A trains, and operands that are small or
/// constant.
#[derive(Debug, Clone)]
struct Saved<B: Backend> {
    x: Option<FloatTensor<B>>,
    linears: Linears<FloatTensor<B>>,
    narrow: Option<FloatTensor<B>>,
    mask: Option<Mask>,
    /// The gradients that are wanted.
    parents: Vec<Of>,
}

/// What backward needs of all groups.
#[derive(Debug, Clone)]
struct KeptGroups<B: Backend> {
    x: Option<FloatTensor<B>>,
    groups: Vec<Group<FloatTensor<B>>>,
    narrows: Vec<Option<FloatTensor<B>>>,
    mask: Option<Mask>,
    /// Group and operand of each parent; x belongs to the first group.
    parents: Vec<(usize, Of)>,
}

/// Records [`forward_groups`] on the tape. The parents of the step are those operands that are
/// tracked.
pub(super) fn record<B: Products + KeyedDropout, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    groups: Vec<Group<FloatTensor<Autodiff<B, C>>>>,
    mask: Option<Mask>,
) -> FloatTensor<Autodiff<B, C>> {
    let mut places = vec![(0, Of::X)];
    for (group, Group { linears, .. }) in groups.iter().enumerate() {
        for (index, map) in linears.maps.iter().enumerate() {
            places.extend(map.weight.dense().map(|_| (group, Of::Weight(index))));
            places.extend(
                map.adapter
                    .iter()
                    .flat_map(|_| [(group, Of::A(index)), (group, Of::B(index))]),
            );
        }
        places.extend(linears.onto.iter().map(|_| (group, Of::Onto)));
    }
    let (mut places, mut parents, mut nodes) = (places.into_iter(), Vec::new(), Vec::new());
    let mut untracked = |tensor: FloatTensor<Autodiff<B, C>>| {
        let (place, is_tracked) = (places.next().expect("one an operand"), tensor.is_tracked());
        let (primitive, node) = tensor.into_parts();
        if is_tracked {
            parents.push(place);
            nodes.push(node);
        }
        primitive
    };
    let x = untracked(x);
    let mut groups = group::map(groups, untracked);
    let (output, narrows) = forward_groups::<B>(&x, &groups, mask.as_ref());
    let keeps_x = parents
        .iter()
        .any(|(_, of)| matches!(of, Of::Weight(_) | Of::A(_)));
    for group in &mut groups {
        group.linears.onto = None;
    }
    let kept = KeptGroups {
        x: keeps_x.then_some(x),
        groups,
        narrows,
        mask,
        parents,
    };
    match nodes.len() {
        0 => <Autodiff<B, C> as AutodiffBackend>::from_inner(output),
        1 => with_parents::<B, C, 1>(nodes, kept, output),
        2 => with_parents::<B, C, 2>(nodes, kept, output),
        3 => with_parents::<B, C, 3>(nodes, kept, output),
        4 => with_parents::<B, C, 4>(nodes, kept, output),
        5 => with_parents::<B, C, 5>(nodes, kept, output),
        6 => with_parents::<B, C, 6>(nodes, kept, output),
        7 => with_parents::<B, C, 7>(nodes, kept, output),
        8 => with_parents::<B, C, 8>(nodes, kept, output),
        9..=64 => with_parents::<B, C, 64>(nodes, kept, output),
        65..=512 => with_parents::<B, C, 512>(nodes, kept, output),
        513..=4096 => with_parents::<B, C, 4096>(nodes, kept, output),
        more => unreachable!("{more} operands that train, of three maps at most of 512 groups"),
    }
}

/// Records a step with `N` parents. The number of parents is fixed at compile time, so unused ones
/// are constants.
fn with_parents<B: Products + KeyedDropout, C: CheckpointStrategy, const N: usize>(
    mut nodes: Vec<NodeGuard>,
    kept: KeptGroups<B>,
    output: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let (device, dtype) = (output.device(), output.dtype());
    nodes.resize_with(N, || {
        let constant = B::float_zeros([1].into(), &device, dtype.into());
        <Autodiff<B, C> as AutodiffBackend>::from_inner(constant)
            .into_parts()
            .1
    });
    let Ok(nodes) = <Box<[NodeGuard; N]>>::try_from(nodes.into_boxed_slice()) else {
        unreachable!("so many were made")
    };
    match AdaptedBackward
        .prepare::<C>(*nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish(kept, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// The backward of the maps. With h = s · drop(x) A and u = s · dY Bᵀ: dB = hᵀ dY, dA = drop(x)ᵀ u,
/// dW = xᵀ dY, and dX = Σ dY Wᵀ + drop'(u Aᵀ) over the maps.
#[derive(Debug)]
struct AdaptedBackward;

impl<B: Products + KeyedDropout, const N: usize> Backward<B, N> for AdaptedBackward {
    type State = KeptGroups<B>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (kept, gradient) = (ops.state, grads.consume::<B>(&ops.node));
        let parents = kept.parents.clone();
        let mut found = of_groups(kept, &gradient);
        for (place, parent) in parents.iter().zip(&ops.parents) {
            let index = found.iter().position(|(of, _)| of == place);
            if let (Some(index), Some(parent)) = (index, parent) {
                grads.register::<B>(parent.id, found.swap_remove(index).1);
            }
        }
    }
}

/// Returns the wanted gradients of all groups.
fn of_groups<B: Products + KeyedDropout>(
    kept: KeptGroups<B>,
    gradient: &FloatTensor<B>,
) -> Vec<((usize, Of), FloatTensor<B>)> {
    let KeptGroups {
        x,
        groups,
        narrows,
        mask,
        parents,
    } = kept;
    let wants_x = parents.contains(&(0, Of::X));
    let (mut found, mut of_x) = (Vec::new(), Vec::new());
    for ((index, (rows, Group { linears, .. })), narrow) in placed(&groups).enumerate().zip(narrows)
    {
        let own = parents
            .iter()
            .filter(|(group, of)| *group == index && *of != Of::X)
            .map(|(_, of)| *of);
        if rows.is_empty() {
            found.extend(own.filter_map(|of| Some(((index, of), nothing::<B>(linears, of)?))));
            continue;
        }
        let kept = Saved::<B> {
            x: x.as_ref().map(|x| rows_of::<B>(x, rows.clone())),
            linears: linears.clone(),
            narrow,
            mask: mask.as_ref().map(|mask| mask.of(rows.clone())),
            parents: wants_x.then_some(Of::X).into_iter().chain(own).collect(),
        };
        for (of, gradient) in gradients(kept, rows_of::<B>(gradient, rows)) {
            if of == Of::X {
                of_x.push(gradient);
            } else {
                found.push(((index, of), gradient));
            }
        }
    }
    if wants_x {
        let whole = if of_x.len() == 1 {
            of_x.remove(0)
        } else {
            B::float_cat(of_x, 0)
        };
        found.push(((0, Of::X), whole));
    }
    found
}

/// Returns a gradient of zeros, for a group without rows.
fn nothing<B: Backend>(linears: &Linears<FloatTensor<B>>, of: Of) -> Option<FloatTensor<B>> {
    let like = |tensor: &FloatTensor<B>| {
        B::float_zeros(tensor.shape(), &tensor.device(), DType::F32.into())
    };
    match of {
        Of::Weight(index) => linears.maps[index].weight.dense().map(like),
        Of::A(index) => linears.maps[index]
            .adapter
            .as_ref()
            .map(|adapter| like(&adapter.a)),
        Of::B(index) => linears.maps[index]
            .adapter
            .as_ref()
            .map(|adapter| like(&adapter.b)),
        Of::X | Of::Onto => None,
    }
}

/// Returns the wanted gradients, given that of the result.
fn gradients<B: Products + KeyedDropout>(
    kept: Saved<B>,
    gradient: FloatTensor<B>,
) -> Vec<(Of, FloatTensor<B>)> {
    let Saved {
        x,
        linears,
        narrow,
        mask,
        parents,
    } = kept;
    let turned = |tensor: &FloatTensor<B>| B::float_transpose(tensor.clone());
    let places = Places::new(&linears);
    let of_output = |index: usize| columns_of::<B>(&gradient, places.outputs[index].clone());
    let (mut found, mut places_found) = (Vec::new(), Vec::new());

    // What follows from the gradient of the result alone: u and dB.
    let mut wanted = Vec::new();
    let wants_u = narrow.is_some() && parents.iter().any(|of| matches!(of, Of::X | Of::A(_)));
    if wants_u {
        let map = |(index, map): (usize, &Linear<FloatTensor<B>>)| {
            Some(vec![(
                of_output(index),
                vec![Base::Dense(turned(&map.adapter.as_ref()?.b))],
            )])
        };
        wanted.push(ProductInputs::side_by_side(
            linears.maps.iter().enumerate().filter_map(map).collect(),
            None,
        ));
    }
    for of in &parents {
        if let (Of::B(index), Some(narrow)) = (*of, &narrow) {
            let narrow = columns_of::<B>(narrow, places.ranks[index].clone());
            wanted.push(ProductInputs::of_weight(turned(&narrow), of_output(index)));
            places_found.push(*of);
        }
    }
    let mut computed = if wanted.is_empty() {
        Vec::new()
    } else {
        B::products(wanted)
    }
    .into_iter();
    // [tokens, ranks]
    let u = if wants_u { computed.next() } else { None }.map(|u| scaled::<B>(u, &linears));
    found.extend(places_found.drain(..).zip(computed));
    drop(narrow);

    // The rest: dX, dA and dW.
    let mut wanted = Vec::new();
    let dropped_x = parents
        .iter()
        .any(|of| matches!(of, Of::A(_)))
        .then(|| dropped::<B>(x.as_ref().expect("kept"), mask.clone()));
    for of in &parents {
        let sum = match (*of, &u, &x, &dropped_x) {
            (Of::X, u, ..) => d_x::<B>(&linears, &gradient, u.as_ref(), mask.as_ref()),
            (Of::A(index), Some(u), _, Some(x)) => {
                ProductInputs::of_weight(turned(x), columns_of::<B>(u, places.ranks[index].clone()))
            }
            (Of::Weight(index), _, Some(x), _) => {
                ProductInputs::of_weight(turned(x), of_output(index))
            }
            _ => continue,
        };
        wanted.push(sum);
        places_found.push(*of);
    }
    if !wanted.is_empty() {
        found.extend(places_found.into_iter().zip(B::products(wanted)));
    }
    if parents.contains(&Of::Onto) {
        found.push((Of::Onto, gradient));
    }
    found
}

/// dX: Σ dY Wᵀ, and Σ u Aᵀ through the dropout of the adapters' inputs.
fn d_x<B: Products + KeyedDropout>(
    linears: &Linears<FloatTensor<B>>,
    gradient: &FloatTensor<B>,
    u: Option<&FloatTensor<B>>,
    mask: Option<&Mask>,
) -> ProductInputs<FloatTensor<B>> {
    let turned = |tensor: &FloatTensor<B>| B::float_transpose(tensor.clone());
    let weights = linears
        .maps
        .iter()
        .map(|map| map.weight.transposed_by(turned))
        .collect();
    let through_weights = (gradient.clone(), weights);
    let as_turned = || {
        linears
            .adapters()
            .map(|adapter| Base::Dense(turned(&adapter.a)))
            .collect::<Vec<_>>()
    };
    let through_adapters = u.map(|u| (u.clone(), as_turned()));
    match (through_adapters, mask) {
        (Some(through_adapters), Some(mask)) => ProductInputs::side_by_side(
            vec![vec![through_weights]],
            Some(B::keyed_dropout(
                product::<B>(ProductInputs::sum(vec![through_adapters])),
                mask.clone(),
            )),
        ),
        (through_adapters, _) => ProductInputs::sum(
            [through_weights]
                .into_iter()
                .chain(through_adapters)
                .collect(),
        ),
    }
}

/// Each map's columns in the result, and in the narrow product.
struct Places {
    outputs: Vec<Range<usize>>,
    ranks: Vec<Range<usize>>,
}

impl Places {
    fn new<T: TensorMetadata>(linears: &Linears<T>) -> Self {
        let ranges = |width: &dyn Fn(&Linear<T>) -> usize| {
            let mut before = 0;
            let range = |map: &Linear<T>| {
                let range = before..before + width(map);
                before = range.end;
                range
            };
            linears.maps.iter().map(range).collect()
        };
        let rank = |map: &Linear<T>| {
            map.adapter
                .as_ref()
                .map_or(0, |adapter| adapter.b.shape()[0])
        };
        Self {
            outputs: ranges(&|map| map.weight.shape()[1]),
            ranks: ranges(&rank),
        }
    }
}
