//! A state per head that each token changes and reads: the gated delta rule and Mamba 2, forward
//! and backward, linear in time and memory.
//!
//! Backward keeps the operands only: states are made again. All numbers within are f32 whatever the
//! type of the stream. `walk` computes on the CPU, in chunks, of which it keeps the states between
//! those of one head at a time; `ops/cube/recurrence` on a GPU, token by token.

mod chunk;
mod form;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension,
};
use burn::tensor::Tensor;

#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) use chunk::CHUNK;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) use form::{LENGTH_EPSILON, OF_HEAD};
pub use form::{RecurrenceForm, Update};
use walk::Given;

use super::differentiate;
use super::numbers::{read, row_major, tensor};

/// Mixes the tokens of documents, whose lengths are given, through states; see [`Update`]. The
/// first document goes on from `state`, the others start from zeros. Also returns the states after
/// the last document, which are constants.
///
/// # Shapes
/// `mixed` [tokens, channels]: queries, keys and values with [`Update::Delta`]; values, keys and
/// queries with [`Update::Sum`]. `gates` [tokens, gates], `vectors` [vectors, value heads], `state`
/// and the states [value heads, features of a key, features of a value], result [tokens, values].
pub fn recurrence(
    mixed: Tensor<2>,
    gates: Tensor<2>,
    vectors: Tensor<2>,
    state: Tensor<3>,
    form: RecurrenceForm,
    documents: &Arc<[u32]>,
) -> (Tensor<2>, Tensor<3>) {
    let [mixed, gates, vectors] = [mixed, gates, vectors].map(Tensor::into_dispatch);
    let (output, state) = <Dispatch as Recurrent>::recurrence(
        mixed,
        gates,
        vectors,
        state.into_dispatch(),
        form,
        documents.clone(),
    );
    (Tensor::from_dispatch(output), Tensor::from_dispatch(state))
}

/// The recurrence and its gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Recurrent: Backend {
    /// See [`recurrence`].
    fn recurrence(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Returns the gradients of `mixed`, `gates` and `vectors`, given that of the output.
    fn recurrence_gradients(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl Recurrent for Flex {
    fn recurrence(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [mixed, gates, vectors, state] = [mixed, gates, vectors, state].map(row_major);
        let result = walk::mix(&Given {
            mixed: read(&mixed),
            gates: read(&gates),
            vectors: read(&vectors),
            state: read(&state),
            documents: &documents,
            form,
        });
        let shape = [mixed.shape()[0], form.values()];
        (
            tensor(result.output, shape.into()),
            tensor(result.state, state.shape()),
        )
    }

    fn recurrence_gradients(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [mixed, gates, vectors, state, gradient] =
            [mixed, gates, vectors, state, gradient].map(row_major);
        let given = Given {
            mixed: read(&mixed),
            gates: read(&gates),
            vectors: read(&vectors),
            state: read(&state),
            documents: &documents,
            form,
        };
        let of = walk::gradients(&given, read(&gradient));
        (
            tensor(of.mixed, mixed.shape()),
            tensor(of.gates, gates.shape()),
            tensor(of.vectors, vectors.shape()),
        )
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Recurrent for burn::backend::Cube {
    fn recurrence(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let given = super::cube::recurrence::Given {
            mixed,
            gates,
            vectors,
            state,
        };
        super::cube::recurrence::forward(given, form, &documents)
    }

    fn recurrence_gradients(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let given = super::cube::recurrence::Given {
            mixed,
            gates,
            vectors,
            state,
        };
        super::cube::recurrence::backward(given, gradient, form, &documents).into()
    }
}

/// What backward needs: the operands.
type Kept<B> = ([FloatTensor<B>; 4], RecurrenceForm, Arc<[u32]>);

impl<B: Backend + Recurrent, C: CheckpointStrategy> Recurrent for Autodiff<B, C> {
    fn recurrence(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [
            (mixed, of_mixed),
            (gates, of_gates),
            (vectors, of_vectors),
            (state, _),
        ] = [mixed, gates, vectors, state].map(|tensor| tensor.into_parts());
        let (output, last) = B::recurrence(
            mixed.clone(),
            gates.clone(),
            vectors.clone(),
            state.clone(),
            form,
            documents.clone(),
        );
        let output = match RecurrenceBackward
            .prepare::<C>([of_mixed, of_gates, of_vectors])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                prep.finish(([mixed, gates, vectors, state], form, documents), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        (output, <Self as AutodiffBackend>::from_inner(last))
    }

    fn recurrence_gradients(
        mixed: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        vectors: FloatTensor<Self>,
        state: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        form: RecurrenceForm,
        documents: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [mixed, gates, vectors, state, gradient] =
            [mixed, gates, vectors, state, gradient].map(|tensor| tensor.into_parts().0);
        let (of_mixed, of_gates, of_vectors) =
            B::recurrence_gradients(mixed, gates, vectors, state, gradient, form, documents);
        let outer = <Self as AutodiffBackend>::from_inner;
        (outer(of_mixed), outer(of_gates), outer(of_vectors))
    }
}

#[derive(Debug)]
struct RecurrenceBackward;

impl<B: Backend + Recurrent> Backward<B, 3> for RecurrenceBackward {
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        differentiate::<B, _, 3>(
            ops,
            grads,
            |([mixed, gates, vectors, state], form, documents), gradient| {
                B::recurrence_gradients(mixed, gates, vectors, state, gradient, form, documents)
                    .into()
            },
        );
    }
}
