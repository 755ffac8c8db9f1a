//! A GPU's own memory: how much is free, and the most that its allocator held.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use burn::tensor::Device;

use super::list;
use crate::terms;

/// Returns the bytes that a run could use on a device; `None` where that is not known.
pub fn free_memory_bytes(choice: terms::Device) -> Option<u64> {
    match choice {
        terms::Device::Auto => None,
        terms::Device::Cpu => crate::report::free_memory_bytes(),
        terms::Device::Wgpu(index) => list::wgpu_adapters().get(index)?.free_memory_bytes,
        terms::Device::Cuda(index) => list::cuda_gpus().get(index)?.free_memory_bytes,
    }
}

/// Returns the most memory that the device's allocator was seen to hold, bytes; `None` on the CPU.
/// The allocator gives little back during a run, so that what it holds after a step is about what
/// the step needed.
pub fn peak_memory_bytes(device: &Device) -> Option<u64> {
    static PEAK: AtomicU64 = AtomicU64::new(0);
    let held = device.memory_pool_usage()?.bytes_reserved;
    Some(PEAK.fetch_max(held, Relaxed).max(held))
}

/// Returns the size of the largest tensor that a device takes, bytes; `None` on the CPU.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub fn largest_tensor_bytes(device: &Device) -> Option<u64> {
    let tensor = burn::tensor::Tensor::<1>::empty([1], device)
        .try_into_primitive::<burn::backend::Cube>()
        .ok()?;
    Some(tensor.client.properties().memory.max_page_size)
}

/// Returns `None`: this build has the CPU only.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub fn largest_tensor_bytes(_: &Device) -> Option<u64> {
    None
}
