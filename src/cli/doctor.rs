//! `rankine doctor`: the available devices, the one that `auto` selects, what is missing, and what
//! to do about it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::gradcheck::{Asked, gradcheck};
use super::words::{parse_device, parse_dtype};
use super::{Failure, print};
use crate::device::{self, Choice, DeviceClass, FoundDevice};
use crate::report::mebibytes;
use crate::run::is_proven;
use crate::terms::{self, ModelDtype};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Ask for this device: exit code 69 if it cannot be used, with the reason
    #[arg(long, value_parser = parse_device)]
    device: Option<terms::Device>,
    /// Run the GPU self-check: two steps of a small model there and on the CPU, compared place by
    /// place
    #[arg(long, requires = "device")]
    gradcheck: bool,
    /// With --gradcheck: the folder of a model whose mechanisms are checked, instead of those of
    /// all families
    #[arg(long, value_name = "DIR", requires = "gradcheck")]
    model: Option<PathBuf>,
    /// With --gradcheck: how the weights of the base are kept, `float32`, `bfloat16` or `float16`;
    /// `auto`: as a run does
    #[arg(long, default_value = "float32", value_parser = parse_dtype)]
    model_dtype: ModelDtype,
    /// With --gradcheck: also check training with products in TF32, which `training.allow_tf32` of
    /// a recipe allows
    #[arg(long, requires = "gradcheck")]
    allow_tf32: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    if let (true, Some(device)) = (args.gradcheck, args.device) {
        device::set_threads(0);
        let asked = Asked {
            device,
            model: args.model.as_deref(),
            dtype: args.model_dtype,
            with_tf32: args.allow_tf32,
        };
        return gradcheck(asked, args.json);
    }
    let devices = device::usable();
    let choice = device::choose(terms::Device::Auto, &is_proven);
    if args.json {
        print(object(&devices, &choice))
    } else {
        print_lines(&devices, &choice)
    }?;
    Ok(args.device.map_or(Ok(()), device::check)?)
}

fn object(devices: &[FoundDevice], choice: &Choice) -> Value {
    let device = |found: &FoundDevice| {
        let mut value = json!(found);
        value["proven"] = json!(is_proven(found));
        value
    };
    json!({
        "rankine": env!("CARGO_PKG_VERSION"),
        "features": {"wgpu": cfg!(feature = "wgpu"), "cuda": cfg!(feature = "cuda")},
        "devices": devices.iter().map(device).collect::<Vec<_>>(),
        "auto": {"device": choice.device.to_string(), "reason": choice.reason},
        "cuda": device::parts(),
        "missing": device::missing(),
    })
}

fn print_lines(devices: &[FoundDevice], choice: &Choice) -> Result<(), Failure> {
    for found in devices {
        let mut name = found.device.to_string();
        for line in lines(found) {
            print(format_args!("{name:<9} {line}"))?;
            name.clear();
        }
    }
    let reason = choice
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(", because {reason}"));
    print(format_args!("auto      {}{reason}", choice.device))?;
    let parts = device::parts();
    if parts.iter().all(|part| part.path.is_none()) && !parts.is_empty() {
        print(format_args!(
            "CUDA      no GPU, driver or toolkit of NVIDIA found"
        ))?;
    } else {
        for part in parts {
            print(format_args!("CUDA      {}: {}", part.name, place(&part)))?;
        }
    }
    for missing in device::missing() {
        print(format_args!("missing   {}", missing.what))?;
        print(format_args!("          {}", missing.advice))?;
    }
    Ok(())
}

/// Returns the path and version of a part of CUDA, or why it cannot be used.
fn place(part: &device::ToolkitPart) -> String {
    match (&part.fault, &part.path, &part.version) {
        (Some(_) | None, None, _) => "not found".to_owned(),
        (Some(_), Some(path), _) => format!("{}, cannot be used", path.display()),
        (None, Some(path), Some(version)) => format!("{} (CUDA {version})", path.display()),
        (None, Some(path), None) => path.display().to_string(),
    }
}

/// Describes a device in a few lines: its name, its properties and the limits of its kernels.
fn lines(found: &FoundDevice) -> Vec<String> {
    let identity = found.identity();
    let proven = if is_proven(found) {
        "proven"
    } else {
        "not proven"
    };
    let first = match found.kind {
        DeviceClass::Processor => format!("{}, {}", found.name, device::cpu_features().join(" ")),
        DeviceClass::Software => {
            format!("{}, computes on the CPU, {}", found.name, identity.driver)
        }
        _ => format!("{}, {}", found.name, identity.driver),
    };
    let free = found
        .free_memory_bytes
        .map_or_else(String::new, |bytes| format!(", {} free", mebibytes(bytes)));
    let memory = found.memory_bytes.map_or_else(
        || "memory not told".to_owned(),
        |bytes| format!("memory {}{free}", mebibytes(bytes)),
    );
    let capability = found.capability.map_or_else(String::new, |number| {
        format!("compute capability {}.{}; ", number / 10, number % 10)
    });
    let second = format!(
        "{memory}; {capability}{}; training is {proven}",
        found.dtypes.join(" ")
    );
    let third = found.limits.map(|limits| {
        format!(
            "tensors up to {}, {} a kernel; {} workgroups, of {} threads and {} bytes",
            mebibytes(limits.max_buffer_bytes),
            limits.max_buffers,
            limits.max_workgroups,
            limits.max_workgroup_threads,
            limits.max_workgroup_bytes
        )
    });
    [first, second].into_iter().chain(third).collect()
}
