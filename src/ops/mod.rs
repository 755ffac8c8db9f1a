//! Custom operations with a backward of their own; with `device`, the only place that names a burn
//! backend.
#![allow(
    clippy::inline_always,
    reason = "a loop is compiled for a level only where it is inlined, see `simd`"
)]

mod adamw;
mod adapted;
mod attention;
mod base;
mod codes;
mod cross_entropy;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
mod divergence;
mod dropout;
mod exp;
mod flat;
mod gated;
mod gemm;
mod host;
mod lanes;
mod numbers;
mod precision;
mod product;
mod recurrence;
mod rms_norm;
mod rope;
mod seed;
mod short_conv;
mod simd;
mod speed;
mod tile_product;
mod top_tokens;

use burn::backend::Backend;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::Ops;
use burn::backend::tensor::FloatTensor;

pub use adamw::{AdamWRule, AdamWState, Segment, adamw};
pub use adapted::{Adapter, Group, Linear, Linears, adapted, adapted_by_group};
#[cfg(test)]
pub(crate) use attention::in_tiles;
pub use attention::{Score, SeenKeys, attention, attention_with_sinks};
pub use base::{Base, Packed};
pub use codes::Codes;
pub use cross_entropy::{cross_entropy, cross_entropy_losses, smoothed_cross_entropy};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub use cube::routines::{Routine, Timed, product_routines};
pub use divergence::{Compared, divergence, divergence_from_top};
pub use dropout::{Mask, dropout};
pub use flat::{add_at, sum_of_squares};
pub use gated::{Activation, gated, gelu};
pub use precision::in_float32;
pub use product::{matmul, matmul_each, product_flops, times};
pub use recurrence::{RecurrenceForm, Update, recurrence};
pub use rms_norm::{rms_norm, rms_norm_gradients, rms_norm_input};
pub use rope::{Rotation, rope};
pub use seed::{backward_from, root_of};
pub use short_conv::short_conv;
pub use speed::product_flops_per_second;
pub use top_tokens::top_tokens;

/// Registers the gradients of an operation's tracked operands, given what is kept of the operation
/// and the gradient of its result.
fn differentiate<B: Backend, S, const N: usize>(
    ops: Ops<S, N>,
    grads: &mut Gradients,
    of: impl FnOnce(S, FloatTensor<B>) -> [FloatTensor<B>; N],
) {
    let gradient = grads.consume::<B>(&ops.node);
    for (parent, gradient) in ops.parents.into_iter().zip(of(ops.state, gradient)) {
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, gradient);
        }
    }
}
