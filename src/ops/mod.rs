//! Custom operations with a backward of their own; with `device`, the only place that names a burn backend.

mod dropout;
mod exp;
mod product;
mod swiglu;

pub use dropout::{Mask, dropout};
pub use product::{matmul, product_flops};
pub use swiglu::swiglu;
