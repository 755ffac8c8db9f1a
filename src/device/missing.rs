//! What keeps a device from being used, and what to do about it.

use std::path::Path;

use serde::Serialize;

use super::list::DeviceClass;
use super::{cuda, libraries, list, toolkit};

/// A part that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The part, and the devices that it would make usable.
    pub what: String,
    /// The next step for the user.
    pub advice: String,
}

impl Missing {
    fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            advice: advice.into(),
        }
    }
}

/// Returns everything that is missing for GPUs that are there or could be.
pub fn missing() -> Vec<Missing> {
    of_wgpu().into_iter().chain(of_cuda()).collect()
}

fn of_wgpu() -> Option<Missing> {
    if !cfg!(feature = "wgpu") {
        return Some(Missing::new(
            "`wgpu` is not in this build",
            "build with `--features wgpu`",
        ));
    }
    let gpus = list::wgpu_adapters()
        .iter()
        .filter(|found| found.kind != DeviceClass::Software)
        .count();
    if gpus > 0 {
        return None;
    }
    let is_linux = cfg!(target_os = "linux");
    if is_linux && libraries::find("libvulkan.so").is_none() {
        let advice = "install it, on Debian and Ubuntu `apt install libvulkan1 \
            mesa-vulkan-drivers`; NVIDIA's comes with its driver";
        return Some(Missing::new(
            "the Vulkan loader (libvulkan), through which GPUs are reached",
            advice,
        ));
    }
    if let Some(node) = closed_node().filter(|_| is_linux) {
        let advice = "add yourself to its group, usually `sudo usermod -aG render $USER`, and log \
            in again";
        return Some(Missing::new(format!("the right to open `{node}`"), advice));
    }
    if is_linux && !list::may_have_gpu() {
        let advice = "nothing, if there is none; in a container or virtual machine, hand the GPU \
            in";
        return Some(Missing::new("a GPU: the kernel shows none", advice));
    }
    let advice = "install the driver of the GPU's maker; for AMD and Intel on Debian and Ubuntu \
        `apt install mesa-vulkan-drivers`";
    Some(Missing::new(
        "a driver of Vulkan, Metal or DirectX 12 that shows a GPU",
        advice,
    ))
}

/// Returns the device node of a GPU that this user may not open.
fn closed_node() -> Option<String> {
    let nodes = Path::new("/dev/dri")
        .read_dir()
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let mut renders = nodes.filter(|path| path.to_string_lossy().contains("renderD"));
    let is_closed = |path: &Path| {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .is_err()
    };
    renders
        .find(|path| is_closed(path))
        .map(|path| path.display().to_string())
}

/// Returns what is missing of CUDA: nothing where the machine has no NVIDIA GPU.
fn of_cuda() -> Vec<Missing> {
    if list::cuda_gpus().is_empty() && !cuda::has_card() {
        return Vec::new();
    }
    if !cfg!(feature = "cuda") {
        let what = "`cuda` is not in this build, and there is a GPU of NVIDIA";
        return vec![Missing::new(
            what,
            "use a build with the default features, or build with `--features cuda`",
        )];
    }
    let faults = toolkit::parts()
        .into_iter()
        .filter_map(|part| part.fault)
        .chain(toolkit::unknown_cards());
    faults
        .map(|fault| Missing::new(fault.problem, fault.advice))
        .collect()
}
