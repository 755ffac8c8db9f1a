//! Speed of a device's matrix products.

use std::time::Instant;

use burn::tensor::{DType, Device, Tensor};

use super::product::matmul;
use crate::device;
use crate::terms::ModelDtype;

/// Measures floating-point operations per second, the best of a few tries: the product of two
/// square matrices as in a training step, with the base's matrix kept in type `kept`.
pub fn product_flops_per_second(device: &Device, width: usize, kept: ModelDtype) -> f64 {
    let kept = match kept {
        ModelDtype::Auto | ModelDtype::Float32 => DType::F32,
        ModelDtype::Bfloat16 => DType::BF16,
        ModelDtype::Float16 => DType::F16,
    };
    // On the CPU a product converts stored weights to float32.
    let computed = if device::is_cpu(device) {
        DType::F32
    } else {
        kept
    };
    let ones = |dtype| Tensor::<2>::ones([width, width], (device, dtype));
    let (x, weight) = (ones(computed), ones(kept));
    let seconds = (0..4).map(|_| {
        let started = Instant::now();
        let corner = matmul(x.clone(), weight.clone())
            .slice([0..1, 0..1])
            .into_data();
        // A GPU's data is waited for when a number of it is read.
        let read = corner.iter::<f32>().next();
        assert!(
            read == Some(width as f32),
            "a product of ones is {read:?}, expected {width}"
        );
        started.elapsed().as_secs_f64()
    });
    2.0 * (width * width * width) as f64 / seconds.fold(f64::INFINITY, f64::min)
}
