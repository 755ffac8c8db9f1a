//! The adapters of wgpu. They are listed and opened through the wgpu that burn uses, so that what
//! is listed is what is opened.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::wgpu::wgpu::{
    AdapterInfo, Backend, DeviceType, Features, Instance, InstanceDescriptor,
};
use burn::tensor::wgpu::{WgpuBackend, WgpuInitError, wgpu};
use burn::tensor::{Device, DeviceKind};

use super::list::{DeviceClass, FoundDevice, Limits};
use crate::terms;

/// The native interface of each system. OpenGL is left out: training through it was never tried.
const APIS: [(Backend, WgpuBackend, &str); 3] = [
    (Backend::Vulkan, WgpuBackend::Vulkan, "Vulkan"),
    (Backend::Metal, WgpuBackend::Metal, "Metal"),
    (Backend::Dx12, WgpuBackend::Dx12, "DirectX 12"),
];

/// Lists the adapters of the first interface that has a GPU, or else of the first that has any;
/// GPUs come first. Adapters that burn cannot be told to open are left out: those of no kind, and
/// all software adapters except the first.
pub(super) fn list() -> Vec<FoundDevice> {
    let each = APIS
        .iter()
        .map(|(backend, _, api)| on(*backend, api))
        .filter(|found| !found.is_empty());
    let mut reached: Vec<Vec<FoundDevice>> = each.collect();
    let has_gpu = |found: &Vec<FoundDevice>| {
        found
            .iter()
            .any(|found| found.kind != DeviceClass::Software)
    };
    let best = reached.iter().position(has_gpu).unwrap_or(0);
    let mut adapters = if reached.is_empty() {
        Vec::new()
    } else {
        reached.swap_remove(best)
    };
    adapters.sort_by_key(|found| found.kind as u8);
    let first_software = adapters
        .iter()
        .position(|found| found.kind == DeviceClass::Software);
    adapters.truncate(first_software.map_or(adapters.len(), |first| first + 1));
    let numbered = adapters.into_iter().enumerate();
    numbered
        .map(|(index, found)| FoundDevice {
            device: terms::Device::Wgpu(index),
            ..found
        })
        .collect()
}

fn on(backend: Backend, api: &'static str) -> Vec<FoundDevice> {
    let described = InstanceDescriptor {
        backends: backend.into(),
        ..InstanceDescriptor::new_without_display_handle()
    };
    let instance = Instance::new(described);
    let found = now(instance.enumerate_adapters(backend.into()))
        .iter()
        .filter_map(|adapter| describe(adapter, api))
        .collect();
    // Loaders of drivers do not survive that instances come and go while others are made.
    std::mem::forget(instance);
    found
}

fn describe(adapter: &wgpu::Adapter, api: &'static str) -> Option<FoundDevice> {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let half = features.contains(Features::SHADER_F16).then_some("float16");
    Some(FoundDevice {
        device: terms::Device::Wgpu(0),
        kind: kind(info.device_type)?,
        api,
        driver: driver(&info),
        bus: Some(info.device_pci_bus_id.to_lowercase()).filter(|bus| !bus.is_empty()),
        name: info.name,
        memory_bytes: None,
        free_memory_bytes: None,
        dtypes: ["float32"].into_iter().chain(half).collect(),
        capability: None,
        limits: Some(Limits {
            max_buffer_bytes: limits
                .max_storage_buffer_binding_size
                .min(limits.max_buffer_size),
            max_buffers: limits.max_storage_buffers_per_shader_stage,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            max_workgroup_threads: limits.max_compute_invocations_per_workgroup,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        }),
    })
}

fn driver(info: &AdapterInfo) -> String {
    let parts = [&info.driver, &info.driver_info].map(|part| part.trim());
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn kind(of: DeviceType) -> Option<DeviceClass> {
    match of {
        DeviceType::DiscreteGpu => Some(DeviceClass::Discrete),
        DeviceType::IntegratedGpu => Some(DeviceClass::Integrated),
        DeviceType::VirtualGpu => Some(DeviceClass::Virtual),
        DeviceType::Cpu => Some(DeviceClass::Software),
        DeviceType::Other => None,
    }
}

/// Opens an adapter of the list. burn counts each kind from 0 on the interface that it is told, in
/// the order of this list. It is an error if burn opened another adapter.
pub(super) fn open(list: &[FoundDevice], wanted: &FoundDevice) -> Result<Device, String> {
    let before = list
        .iter()
        .take_while(|found| found.device != wanted.device);
    let place = before.filter(|found| found.kind == wanted.kind).count();
    let kind = match wanted.kind {
        DeviceClass::Discrete => DeviceKind::DiscreteGpu(place),
        DeviceClass::Integrated => DeviceKind::IntegratedGpu(place),
        DeviceClass::Virtual => DeviceKind::VirtualGpu(place),
        DeviceClass::Software | DeviceClass::Processor => DeviceKind::Cpu,
    };
    let api = APIS
        .iter()
        .find(|(.., api)| *api == wanted.api)
        .map_or(WgpuBackend::Auto, |(_, api, _)| *api);
    let opened = Device::wgpu_options()
        .device_kind(kind)
        .graphics_api(api)
        .init_with_setup();
    let (device, setup) = opened.map_err(|error: WgpuInitError| error.to_string())?;
    let info = setup.adapter.get_info();
    if (info.name.as_str(), driver(&info)) != (wanted.name.as_str(), wanted.driver.clone()) {
        return Err(format!(
            "it opened as `{}`, expected `{}`",
            info.name, wanted.name
        ));
    }
    Ok(device)
}

/// Returns the result of a future that is ready at once, as all of wgpu's are outside a browser.
fn now<T>(future: impl Future<Output = T>) -> T {
    let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::yield_now();
    }
}
