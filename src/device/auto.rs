//! `device: auto`: the first device on which training is proven.

use super::list::{self, DeviceClass, FoundDevice};
use crate::terms;

/// The device of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The device, never `auto`.
    pub device: terms::Device,
    /// The reason for the choice, where `auto` had GPUs to choose from.
    pub reason: Option<String>,
}

/// Resolves a recipe's device.
///
/// A named device stands for itself; `auto` stands for the first device for which `is_proven`
/// holds, of NVIDIA's GPUs, then discrete and integrated adapters of wgpu, then the CPU. A software
/// adapter computes on the CPU, only slower, and is taken by name only.
pub fn choose(said: terms::Device, is_proven: &dyn Fn(&FoundDevice) -> bool) -> Choice {
    if said != terms::Device::Auto {
        return Choice {
            device: said,
            reason: None,
        };
    }
    let found = if list::may_have_gpu() {
        list::usable()
    } else {
        Vec::new()
    };
    of(&found, is_proven)
}

fn of(found: &[FoundDevice], is_proven: &dyn Fn(&FoundDevice) -> bool) -> Choice {
    let mut passed_over = Vec::new();
    for gpu in found
        .iter()
        .filter(|found| [DeviceClass::Discrete, DeviceClass::Integrated].contains(&found.kind))
    {
        if is_proven(gpu) {
            let reason = format!("the first on which training is proven: {}", gpu.describe());
            return Choice {
                device: gpu.device,
                reason: Some(reason),
            };
        }
        passed_over.push(gpu.describe());
    }
    let names = passed_over.join(", ");
    let reason = (!passed_over.is_empty()).then(|| format!("training is not proven on {names}"));
    Choice {
        device: terms::Device::Cpu,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(device: terms::Device, kind: DeviceClass, name: &str) -> FoundDevice {
        FoundDevice {
            device,
            kind,
            name: name.to_owned(),
            api: "Vulkan",
            driver: "1.2".to_owned(),
            ..list::cpu()
        }
    }

    #[test]
    fn auto_takes_the_first_proven_gpu_and_never_a_software_adapter() {
        let there = [
            found(terms::Device::Wgpu(0), DeviceClass::Discrete, "large"),
            found(terms::Device::Wgpu(1), DeviceClass::Integrated, "small"),
            found(terms::Device::Wgpu(2), DeviceClass::Software, "slow"),
            list::cpu(),
        ];
        let chosen = |names: &[&str]| of(&there, &|found| names.contains(&found.name.as_str()));
        assert_eq!(chosen(&["large", "small"]).device, terms::Device::Wgpu(0));
        let second = chosen(&["small", "slow"]);
        assert_eq!(second.device, terms::Device::Wgpu(1));
        assert_eq!(
            second.reason.as_deref(),
            Some("the first on which training is proven: wgpu:1 (small, Vulkan 1.2)")
        );
        let none = chosen(&["slow"]);
        assert_eq!(none.device, terms::Device::Cpu);
        let reason = "training is not proven on wgpu:0 (large, Vulkan 1.2), wgpu:1 (small, Vulkan \
            1.2)";
        assert_eq!(none.reason.as_deref(), Some(reason));
        assert_eq!(
            of(&there[2..], &|_| true),
            Choice {
                device: terms::Device::Cpu,
                reason: None
            }
        );
    }

    #[test]
    fn what_is_said_is_taken() {
        let said = choose(terms::Device::Cuda(3), &|_| panic!("nothing is asked"));
        assert_eq!(
            said,
            Choice {
                device: terms::Device::Cuda(3),
                reason: None
            }
        );
    }
}
