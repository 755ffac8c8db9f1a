//! Custom operations with a backward of their own; with `device`, the only place that names a burn backend.

mod dropout;
mod product;

pub use dropout::{Mask, dropout};
pub use product::{matmul, product_flops};
