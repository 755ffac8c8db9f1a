//! A GPU's own memory: the most that its allocator held, and what was said when it ran out.

use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use burn::tensor::Device;

use super::list;
use crate::terms;

/// Bytes that a run could have on a device; `None` where that is not known.
pub fn free_memory_bytes(choice: terms::Device) -> Option<u64> {
    match choice {
        terms::Device::Auto => None,
        terms::Device::Cpu => crate::report::free_memory_bytes(),
        terms::Device::Wgpu(index) => list::wgpu_adapters().get(index)?.free_memory_bytes,
        terms::Device::Cuda(index) => list::cuda_gpus().get(index)?.free_memory_bytes,
    }
}

/// The most memory that the allocator of the device was seen to hold, bytes; `None` on the CPU. It gives little back while a run goes on,
/// so that what it holds after a step is about what the step needed.
pub fn peak_memory_bytes(device: &Device) -> Option<u64> {
    static PEAK: AtomicU64 = AtomicU64::new(0);
    let held = device.memory_pool_usage()?.bytes_reserved;
    Some(PEAK.fetch_max(held, Relaxed).max(held))
}

/// The largest tensor that a device takes, bytes; `None` on the CPU.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub fn largest_tensor_bytes(device: &Device) -> Option<u64> {
    let tensor = burn::tensor::Tensor::<1>::empty([1], device).try_into_primitive::<burn::backend::Cube>().ok()?;
    Some(tensor.client.properties().memory.max_page_size)
}

/// This build has the CPU only.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub fn largest_tensor_bytes(_: &Device) -> Option<u64> {
    None
}

/// The first panic that told of memory.
static RAN_OUT: OnceLock<String> = OnceLock::new();

/// Drivers refuse memory on threads of burn's, which panic; the thread that waits for them hears of it as of any error. This hook of
/// panics keeps their words, and prints nothing.
pub fn overhear(panic: &PanicHookInfo) {
    // The cause stands below what it led to.
    if let Some(line) = panic.payload_as_str().and_then(line_of_memory) {
        // The first is the cause of the others.
        let _ = RAN_OUT.set(line.trim().to_owned());
    }
}

/// What was said where a device ran out of memory.
pub fn ran_out() -> Option<&'static str> {
    RAN_OUT.get().map(String::as_str)
}

/// The line that wgpu, CUDA or cubecl have for it.
fn line_of_memory(said: &str) -> Option<&str> {
    let texts =
        ["out of memory", "outofmemory", "out_of_memory", "not enough memory", "memory allocation", "can't allocate buffer"];
    said.lines().find(|line| texts.iter().any(|text| line.to_lowercase().contains(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_full_memory_are_known() {
        for said in [
            "wgpu error: Out of Memory",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "IoError::OutOfMemory { size: 7 }",
            "Not enough memory left.",
            "can't allocate buffer of size: 183107584",
        ] {
            assert_eq!(
                line_of_memory(&format!("An error happened during execution\nCaused by:\n  {said}")),
                Some(&*format!("  {said}"))
            );
        }
        assert_eq!(line_of_memory("index out of bounds: the len is 3 but the index is 7"), None);
    }
}
