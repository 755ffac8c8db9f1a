//! What tests of the kernels share: a device, if there is one, and numbers.

use std::sync::OnceLock;

use burn::tensor::{Device, DeviceType, Tensor, TensorData};

use crate::draws::{mix, unit};

/// A wgpu device, where the machine has an adapter.
pub(crate) fn device() -> Option<Device> {
    static FOUND: OnceLock<Option<Device>> = OnceLock::new();
    let found = FOUND.get_or_init(|| Device::enumerate(DeviceType::Wgpu).into_iter().next());
    if found.is_none() {
        eprintln!("skipped: no wgpu adapter");
    }
    found.clone()
}

/// Numbers between -range and range.
pub(super) fn drawn(seed: u64, count: usize, range: f64) -> Vec<f32> {
    (0..count as u64).map(|index| (range * (2.0 * unit(mix(seed ^ mix(index))) - 1.0)) as f32).collect()
}

pub(super) fn tensor<const D: usize>(numbers: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), shape), device)
}

/// The largest difference of two tensors, in units of the larger of one and the exact number.
pub(super) fn worst<const D: usize>(ours: Tensor<D>, exact: Tensor<D>) -> f64 {
    let [ours, exact] = [ours, exact].map(|tensor| tensor.into_data().try_to_vec::<f32>().expect("f32"));
    assert_eq!(ours.len(), exact.len());
    let differences =
        ours.iter().zip(&exact).map(|(ours, exact)| f64::from(ours - exact).abs() / f64::from(exact.abs().max(1.0)));
    differences.fold(0.0, |most, number| if number <= most { most } else { number })
}
