//! Custom operations with a backward of their own; with `device`, the only place that names a burn backend.
#![allow(clippy::inline_always, reason = "a loop is compiled for a level only where it is inlined, see `simd`")]

mod adapted;
mod attention;
mod dropout;
mod exp;
mod gemm;
mod product;
mod simd;
mod swiglu;

pub use adapted::{Adapter, adapted};
pub use attention::{Score, attention};
pub use dropout::{Mask, dropout};
pub use product::{matmul, product_flops};
pub use swiglu::swiglu;
