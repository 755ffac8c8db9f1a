//! TF32, the format in which the tensor cores of NVIDIA's GPUs, from compute capability 8.0 on, can
//! take float32 operands: the exponent of float32 with 10 of its 23 bits of mantissa. Products are
//! several times as fast, but no longer exact to float32.

use std::sync::atomic::{AtomicBool, Ordering};

use super::list::FoundDevice;

/// Set for the whole process, because a device's kernels are chosen when it is opened.
static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Allows or forbids TF32 in products of float32 operands on CUDA. It must be called before a
/// device is opened.
pub fn allow_tf32(is_allowed: bool) {
    ALLOWED.store(is_allowed, Ordering::Relaxed);
}

/// Whether devices that are opened now may use TF32.
pub fn is_tf32_allowed() -> bool {
    ALLOWED.load(Ordering::Relaxed)
}

impl FoundDevice {
    /// Whether the device has TF32, which came with Ampere.
    pub fn has_tf32(&self) -> bool {
        self.capability.is_some_and(|capability| capability >= 80)
    }

    /// Returns why TF32 cannot be used on the device; `None` where it can.
    pub fn tf32_refusal(&self) -> Option<String> {
        let refusal = || {
            format!(
                "device `{}` has no TF32, which NVIDIA GPUs of compute capability 8.0 or \
                later have",
                self.device
            )
        };
        (!self.has_tf32()).then(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::{DeviceClass, cpu};
    use super::*;
    use crate::terms::Device;

    #[test]
    fn only_newer_cards_of_nvidia_have_it() {
        let gpu = |device, capability| FoundDevice {
            device,
            kind: DeviceClass::Discrete,
            capability,
            ..cpu()
        };
        let [ampere, turing, silent] =
            [Some(80), Some(75), None].map(|capability| gpu(Device::Cuda(0), capability));
        let adapter = gpu(Device::Wgpu(0), None);
        assert_eq!(
            [&ampere, &turing, &silent, &adapter, &cpu()].map(FoundDevice::has_tf32),
            [true, false, false, false, false]
        );
        let said = "device `wgpu:0` has no TF32, which NVIDIA GPUs of compute capability 8.0 or \
            later have";
        assert_eq!(
            (ampere.tf32_refusal(), adapter.tf32_refusal().as_deref()),
            (None, Some(said))
        );
    }
}
