//! Where a run computes: which devices exist, which of them `auto` takes, and how they are opened.
//! The selection of backends lives here.

#[cfg(feature = "wgpu")]
mod adapters;
mod auto;
mod cuda;
mod half_precision;
mod kernel_times;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod kernels;
mod libraries;
mod list;
mod memory;
mod missing;
mod processor;
mod tf32;
mod toolkit;

pub use auto::{Choice, choose};
pub use half_precision::{HalfPrecision, halves, is_cpu};
pub use kernel_times::{KernelTime, kernel_times};
pub use list::{DeviceClass, FoundDevice, Identity, Limits, cpu, cuda_gpus, usable, wgpu_adapters};
pub use memory::{free_memory_bytes, largest_tensor_bytes, peak_memory_bytes};
pub use missing::{Missing, missing};
pub use processor::{cpu_features, set_threads};
pub use tf32::{allow_tf32, is_tf32_allowed};
pub use toolkit::{ToolkitFault, ToolkitPart, parts};

use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;

use crate::fault::{Exit, Explain};
#[cfg(feature = "cuda")]
use crate::panics::{self, Cause};
use crate::terms;

/// A device that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// This build has no such backend.
    #[error("device `{asked}` is not in this build, which has {}", words(usable))]
    NotBuilt {
        /// The device as the recipe names it.
        asked: terms::Device,
        /// The devices that can be used.
        usable: Vec<FoundDevice>,
    },
    /// This machine has no such device.
    #[error("device `{asked}` not found; available: {}", words(usable))]
    NotThere {
        /// The device as the recipe names it.
        asked: terms::Device,
        /// The devices that can be used.
        usable: Vec<FoundDevice>,
    },
    /// A part of CUDA is missing, or does not fit another.
    #[error("device `{asked}` cannot be used: {fault}")]
    Toolkit {
        /// The device as the recipe names it.
        asked: terms::Device,
        /// The part that is missing or does not fit.
        fault: ToolkitFault,
    },
    /// The device's driver refuses to open it.
    #[error("device `{asked}` cannot be opened: {reason}")]
    NotOpened {
        /// The device as the recipe names it.
        asked: terms::Device,
        /// The driver's message.
        reason: String,
    },
}

fn words(usable: &[FoundDevice]) -> String {
    let each = usable.iter().map(|found| match found.kind {
        DeviceClass::Processor => format!("`{}`", found.device),
        _ => format!("`{}` ({})", found.device, found.name),
    });
    each.collect::<Vec<_>>().join(", ")
}

impl Explain for DeviceError {
    fn exit(&self) -> Exit {
        Exit::Unavailable
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotBuilt { asked, .. } => {
                let feature = if matches!(asked, terms::Device::Cuda(_)) {
                    "cuda"
                } else {
                    "wgpu"
                };
                format!("use `device: cpu`, or build with `--features {feature}`")
            }
            Self::NotThere { .. } => {
                "use one of these; `rankine doctor` tells what is missing for others".into()
            }
            Self::Toolkit { fault, .. } => fault.advice.clone(),
            Self::NotOpened { .. } => "look at the driver with `rankine doctor`, or use `device: \
                cpu`"
                .into(),
        })
    }
}

/// Finds a device of this machine by its name in a recipe; `None` for `auto`.
pub fn find(choice: terms::Device) -> Option<FoundDevice> {
    match choice {
        terms::Device::Auto => None,
        terms::Device::Cpu => Some(cpu()),
        terms::Device::Wgpu(index) => wgpu_adapters().get(index).cloned(),
        terms::Device::Cuda(index) => cuda_gpus().get(index).cloned(),
    }
}

/// Checks that this build supports a device and that the machine has it.
///
/// # Errors
/// It does not, or the machine has no such device.
pub fn check(choice: terms::Device) -> Result<(), DeviceError> {
    let is_built = match choice {
        terms::Device::Auto | terms::Device::Cpu => return Ok(()),
        terms::Device::Wgpu(_) => cfg!(feature = "wgpu"),
        terms::Device::Cuda(_) => cfg!(feature = "cuda"),
    };
    if !is_built {
        return Err(DeviceError::NotBuilt {
            asked: choice,
            usable: usable(),
        });
    }
    #[cfg(feature = "cuda")]
    if let terms::Device::Cuda(index) = choice {
        check_toolkit(index).map_err(|fault| DeviceError::Toolkit {
            asked: choice,
            fault,
        })?;
        if cuda_gpus().is_empty() {
            // Nobody lists them; opening one tells.
            return Ok(());
        }
    }
    find(choice)
        .map(|_| ())
        .ok_or_else(|| DeviceError::NotThere {
            asked: choice,
            usable: usable(),
        })
}

/// Checks that kernels can be compiled for an NVIDIA GPU.
#[cfg(feature = "cuda")]
fn check_toolkit(index: usize) -> Result<(), ToolkitFault> {
    let found = toolkit::Toolkit::find()?;
    match cuda_gpus()
        .get(index)
        .and_then(|card| card.capability.map(|capability| (card, capability)))
    {
        Some((card, capability)) => found.check(capability, &card.name),
        None => Ok(()),
    }
}

/// Opens a device. Opening it again returns the same one.
///
/// # Errors
/// See [`check`]; or the driver refuses.
pub fn open(choice: terms::Device) -> Result<Device, DeviceError> {
    static OPENED: Mutex<Vec<(terms::Device, Device)>> = Mutex::new(Vec::new());
    check(choice)?;
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = opened.iter().find(|(known, _)| *known == choice) {
        return Ok(device.clone());
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    kernels::configure();
    #[cfg(feature = "cuda")]
    if matches!(choice, terms::Device::Cuda(_)) {
        kernels::configure_cuda().map_err(|fault| DeviceError::Toolkit {
            asked: choice,
            fault,
        })?;
    }
    let device = open_anew(choice).map_err(|reason| DeviceError::NotOpened {
        asked: choice,
        reason,
    })?;
    opened.push((choice, device.clone()));
    Ok(device)
}

fn open_anew(choice: terms::Device) -> Result<Device, String> {
    match choice {
        #[cfg(feature = "wgpu")]
        terms::Device::Wgpu(index) => adapters::open(wgpu_adapters(), &wgpu_adapters()[index]),
        #[cfg(feature = "cuda")]
        terms::Device::Cuda(index) => open_cuda(index),
        _ => Ok(Device::flex()),
    }
}

/// Opens a CUDA device. burn panics where the driver refuses; the error has the panic's message.
#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device, String> {
    let touch = || {
        let device = Device::cuda(index);
        let _ = burn::tensor::Tensor::<1>::zeros([1], &device).into_data();
        device
    };
    std::panic::catch_unwind(touch).map_err(|panic| {
        let said = match Cause::of(&*panic) {
            // The thread that waited knows only that burn's is gone.
            Cause::Internal(own) => {
                panics::whole_words().map_or(own, |words| panics::last_cause(&words).to_owned())
            }
            cause => cause.to_string(),
        };
        panics::forget();
        said
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        let beyond = terms::Device::Wgpu(wgpu_adapters().len());
        let refused = check(beyond).expect_err("there is none");
        assert_eq!(refused.exit(), Exit::Unavailable);
        assert!(refused.to_string().contains("`cpu`"), "{refused}");
        let there = [terms::Device::Cpu, terms::Device::Auto]
            .into_iter()
            .chain(wgpu_adapters().iter().map(|found| found.device));
        assert!(there.map(check).all(|checked| checked.is_ok()));
    }
}
