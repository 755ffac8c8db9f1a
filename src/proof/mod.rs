//! Whether training on a device can be trusted: two steps of a small model of the same mechanisms,
//! on the device and on the CPU, compared site by site.
//!
//! A kernel that is wrong trains without an error: a loss still falls where a part of the gradients
//! is off. On the CPU the steps are held against transformers and PEFT (`tests/parity.rs`); here a
//! device is held against the CPU.

mod compare;
#[cfg(test)]
mod faults;
mod probe_model;
mod recording;
mod verdict_cache;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use burn::tensor::Device;

pub use compare::{Bound, Difference, Finding, Verdict};
pub use probe_model::ProbeModel;
pub use recording::Site;
pub use verdict_cache::Key;

use crate::device::FoundDevice;
use crate::fault::{Exit, Explain};
use crate::model::Storage;
use crate::ops::in_float32;
use crate::panics::Cause;
use crate::terms::{self, ModelDtype};
use crate::train::Observer;
use recording::{PASSES, Pass, trace};

/// The precision in which products of float32 operands are computed. Products of 16-bit operands
/// are not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// In float32, on every device.
    Float32,
    /// In TF32, where the process allows it ([`crate::device::allow_tf32`]) and the device has it.
    Tf32,
}

impl Products {
    /// Reads the setting `training.allow_tf32`.
    pub fn new(allow_tf32: bool) -> Self {
        if allow_tf32 {
            Self::Tf32
        } else {
            Self::Float32
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
        }
    }

    fn compute<T>(self, operation: impl FnOnce() -> T) -> T {
        match self {
            Self::Float32 => in_float32(operation),
            Self::Tf32 => operation(),
        }
    }
}

/// The number types in which a verdict was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The type in which the base's matrices are kept, and in which a GPU computes.
    pub dtype: ModelDtype,
    /// The precision of products of float32 operands.
    pub products: Products,
}

impl Numbers {
    /// The types in which the fault of a kernel shows.
    pub const FLOAT32: Self = Self {
        dtype: ModelDtype::Float32,
        products: Products::Float32,
    };
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.products {
            Products::Float32 => write!(f, "{}", self.dtype),
            Products::Tf32 => write!(f, "{} with products in TF32", self.dtype),
        }
    }
}

/// The error of a device on which training is not proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The device's results differ from the CPU's.
    #[error(
        "training on `{device}` is refused, its gradients in {numbers} are not those of the \
        CPU: {verdict}"
    )]
    Refused {
        /// The device as the recipe names it.
        device: terms::Device,
        /// The number types of the steps.
        numbers: Numbers,
        /// The verdict.
        verdict: Box<Verdict>,
    },
    /// The proof did not finish on the device.
    #[error("training on `{device}` is refused, its proof in {numbers} ended with `{words}`")]
    Ended {
        /// The device as the recipe names it.
        device: terms::Device,
        /// The number types of the steps.
        numbers: Numbers,
        /// The message of the device's driver or of burn.
        words: String,
    },
}

impl Explain for ProofError {
    fn exit(&self) -> Exit {
        Exit::Unavailable
    }

    fn hint(&self) -> Option<String> {
        let (Self::Refused { numbers, .. } | Self::Ended { numbers, .. }) = self;
        let without = if numbers.products == Products::Tf32 {
            "remove `training.allow_tf32`, or "
        } else {
            ""
        };
        Some(format!(
            "{without}use `device: cpu`; another driver may be right; `--force` trains \
            there nevertheless"
        ))
    }
}

/// Takes the steps on the device and on the CPU and compares them, with products of float32
/// operands in float32.
///
/// # Errors
/// As for [`prove_in`].
pub fn prove(tiny: &ProbeModel, device: &Device) -> Result<Verdict, String> {
    prove_in(tiny, device, Products::Float32)
}

/// Takes the steps on the device and on the CPU and compares them.
///
/// # Errors
/// burn or a kernel failed on the way; the message is theirs.
///
/// # Panics
/// The device failed or ran out of memory.
pub fn prove_in(tiny: &ProbeModel, device: &Device, products: Products) -> Result<Verdict, String> {
    let found = products.compute(|| on_device(tiny, device, &PASSES, &mut ()))?;
    let expected = trace(tiny, &Device::flex(), &PASSES, &mut ());
    Ok(Verdict::of(
        &found,
        &expected,
        Bound::of(tiny.storage.dtype, products),
    ))
}

/// Returns what some passes compute on a device.
fn on_device(
    tiny: &ProbeModel,
    device: &Device,
    passes: &[Pass],
    through: &mut impl Observer,
) -> Result<Vec<Site>, String> {
    let traced = catch_unwind(AssertUnwindSafe(|| trace(tiny, device, passes, through)));
    traced.map_err(|panic| match Cause::of(&*panic) {
        Cause::Internal(said) => said,
        // Nothing is wrong with the kernels: it is told as anywhere else in a run.
        Cause::OutOfMemory(_) | Cause::Device(_) => resume_unwind(panic),
    })
}

/// Returns the verdict on a device that is kept in a cache folder, or reaches a new one and keeps
/// it there.
///
/// Training in 16 bits or in TF32 counts as proven only where training in float32 is: the bounds of
/// coarse numbers let a small fault pass, and the kernels are the same except for products. The
/// proof in float32 never uses TF32, so that it fails for faults only, and only a run in TF32 asks
/// for a verdict in TF32.
///
/// # Errors
/// Training on the device is not proven. A verdict that cannot be kept is no error: the next start
/// proves it again.
pub fn prove_once(
    found: &FoundDevice,
    tiny: &ProbeModel,
    device: &Device,
    products: Products,
    cache: &Path,
) -> Result<Verdict, ProofError> {
    let numbers = Numbers {
        dtype: tiny.storage.dtype,
        products,
    };
    if numbers != Numbers::FLOAT32 {
        let storage = Storage {
            dtype: ModelDtype::Float32,
            ..tiny.storage
        };
        prove_once(
            found,
            &ProbeModel {
                storage,
                ..tiny.clone()
            },
            device,
            Products::Float32,
            cache,
        )?;
    }
    let key = Key::of(&found.identity(), tiny, products);
    let verdict = if let Some(kept) = key.verdict(cache) {
        kept
    } else {
        let ended = |words| ProofError::Ended {
            device: found.device,
            numbers,
            words,
        };
        let verdict = prove_in(tiny, device, products).map_err(ended)?;
        let _ = key.keep(cache, &verdict);
        verdict
    };
    verdict.check(found.device, numbers).map(|()| verdict)
}

/// Whether training on a device in 32 bits was proven and nowhere refused, over all models whose
/// verdicts a cache folder keeps; `None` where it keeps none.
pub fn is_proven(found: &FoundDevice, cache: &Path) -> Option<bool> {
    let verdicts = verdict_cache::all_of(&found.identity(), cache);
    (!verdicts.is_empty()).then(|| verdicts.iter().all(Verdict::is_proven))
}

impl Verdict {
    /// Refuses a device on which training is not proven.
    ///
    /// # Errors
    /// Training on the device is not proven.
    pub fn check(&self, device: terms::Device, numbers: Numbers) -> Result<(), ProofError> {
        if self.is_proven() {
            Ok(())
        } else {
            Err(ProofError::Refused {
                device,
                numbers,
                verdict: Box::new(self.clone()),
            })
        }
    }
}
