//! The devices of this machine: the processor, NVIDIA's GPUs and the adapters of Vulkan, Metal or
//! DirectX 12.

use std::path::Path;
use std::sync::OnceLock;

use serde::{Serialize, Serializer};

use super::{cuda, processor};
use crate::report::free_memory_bytes;
use crate::terms;

/// Kind of hardware behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceClass {
    /// The processor.
    Processor,
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that uses the processor's memory.
    Integrated,
    /// A part of a GPU, handed to a virtual machine.
    Virtual,
    /// A driver that computes on the processor; `auto` takes none.
    Software,
}

/// A device of this machine.
#[derive(Debug, Clone, Serialize)]
pub struct FoundDevice {
    /// The device's name in a recipe.
    #[serde(serialize_with = "as_word")]
    pub device: terms::Device,
    /// The name that the device reports.
    pub name: String,
    /// The kind of hardware.
    pub kind: DeviceClass,
    /// The interface through which it is reached.
    pub api: &'static str,
    /// The driver with its version.
    pub driver: String,
    /// Its place on the bus, where it has one.
    #[serde(skip)]
    pub bus: Option<String>,
    /// Total memory, where known.
    pub memory_bytes: Option<u64>,
    /// Free memory, where known.
    pub free_memory_bytes: Option<u64>,
    /// The number types that it computes with.
    pub dtypes: Vec<&'static str>,
    /// The compute capability of an NVIDIA GPU, 8.6 as 86.
    pub capability: Option<u32>,
    /// Limits of its kernels; `None` where no limit matters.
    pub limits: Option<Limits>,
}

/// Limits of an adapter's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bytes of the largest tensor.
    pub max_buffer_bytes: u64,
    /// Number of tensors that one kernel may use.
    pub max_buffers: u32,
    /// Workgroups along one dimension of a launch.
    pub max_workgroups: u32,
    /// Threads of a workgroup.
    pub max_workgroup_threads: u32,
    /// Memory that the threads of a workgroup share, bytes.
    pub max_workgroup_bytes: u32,
}

/// The identity under which training on a device was proven. With another driver or version it is
/// another device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Identity {
    /// `cpu`, `cuda` or `wgpu`.
    pub backend: &'static str,
    /// The name that the device reports.
    pub name: String,
    /// The interface, and the driver with its version.
    pub driver: String,
    /// The version of Rankine.
    pub version: &'static str,
}

impl FoundDevice {
    /// Returns the identity under which the device's proof is kept.
    pub fn identity(&self) -> Identity {
        let backend = match self.device {
            terms::Device::Auto | terms::Device::Cpu => "cpu",
            terms::Device::Wgpu(_) => "wgpu",
            terms::Device::Cuda(_) => "cuda",
        };
        let driver = format!("{} {}", self.api, self.driver).trim().to_owned();
        Identity {
            backend,
            name: self.name.clone(),
            driver,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Returns the name in a recipe with the name that the device reports, such as that of
    /// `wgpu:0`.
    pub fn describe(&self) -> String {
        let (device, Identity { name, driver, .. }) = (self.device, self.identity());
        if self.kind == DeviceClass::Processor {
            device.to_string()
        } else {
            format!("{device} ({name}, {driver})")
        }
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn as_word<S: Serializer>(device: &terms::Device, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}

/// Returns the processor.
pub fn cpu() -> FoundDevice {
    FoundDevice {
        device: terms::Device::Cpu,
        name: processor::name(),
        kind: DeviceClass::Processor,
        api: "",
        driver: String::new(),
        bus: None,
        memory_bytes: total_memory_bytes(),
        free_memory_bytes: free_memory_bytes(),
        dtypes: vec!["float32"],
        capability: None,
        limits: None,
    }
}

/// Returns the GPUs that CUDA sees, whether or not this build can use them.
pub fn cuda_gpus() -> &'static [FoundDevice] {
    static FOUND: OnceLock<Vec<FoundDevice>> = OnceLock::new();
    FOUND.get_or_init(cuda::list)
}

/// Returns the adapters that wgpu reaches, the most suitable first.
#[cfg(feature = "wgpu")]
pub fn wgpu_adapters() -> &'static [FoundDevice] {
    static FOUND: OnceLock<Vec<FoundDevice>> = OnceLock::new();
    FOUND.get_or_init(|| {
        super::adapters::list()
            .into_iter()
            .map(with_memory)
            .collect()
    })
}

/// Returns no adapters: this build has no wgpu.
#[cfg(not(feature = "wgpu"))]
pub fn wgpu_adapters() -> &'static [FoundDevice] {
    &[]
}

/// Returns the devices that a run of this build could use, in the order in which `auto` tries them,
/// and the CPU.
pub fn usable() -> Vec<FoundDevice> {
    let cuda = if cfg!(feature = "cuda") {
        cuda_gpus()
    } else {
        &[]
    };
    [cuda, wgpu_adapters()]
        .concat()
        .into_iter()
        .chain([cpu()])
        .collect()
}

/// Whether a GPU may be there at all. Where the kernel shows none, no driver is loaded to ask for
/// one.
pub(super) fn may_have_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    // /dev/dxg is the GPU of the Windows machine that WSL runs on.
    ["/dev/dri", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd"]
        .iter()
        .any(|node| Path::new(node).exists())
}

/// Adds the memory of an adapter, which wgpu does not tell. CUDA or the kernel may know the same
/// card; an integrated GPU has the processor's memory.
#[cfg(feature = "wgpu")]
fn with_memory(found: FoundDevice) -> FoundDevice {
    if [DeviceClass::Integrated, DeviceClass::Software].contains(&found.kind) {
        return FoundDevice {
            memory_bytes: total_memory_bytes(),
            free_memory_bytes: free_memory_bytes(),
            ..found
        };
    }
    let Some(bus) = found.bus.clone() else {
        return found;
    };
    // The domain has eight digits in one, four in the other.
    let is_same = |other: &&FoundDevice| {
        other
            .bus
            .as_deref()
            .is_some_and(|other| other.ends_with(&bus))
    };
    let of_cuda = if Path::new("/dev/nvidiactl").exists() {
        cuda_gpus().iter().find(is_same)
    } else {
        None
    };
    let told = |name: &str| {
        let path = Path::new("/sys/bus/pci/devices").join(&bus).join(name);
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let (total, used) = (told("mem_info_vram_total"), told("mem_info_vram_used"));
    FoundDevice {
        memory_bytes: total.or_else(|| of_cuda?.memory_bytes),
        free_memory_bytes: total
            .zip(used)
            .map(|(total, used)| total.saturating_sub(used))
            .or_else(|| of_cuda?.free_memory_bytes),
        ..found
    }
}

fn total_memory_bytes() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}
