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

/// What products of float32 operands are computed in. Products of 16-bit operands are what they
/// are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// In float32, on every device.
    Float32,
    /// In TF32, where the process allows it ([`crate::device::allow_tf32`]) and the device has it.
    Tf32,
}

impl Products {
    /// As `training.allow_tf32` has them.
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

/// What a verdict was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// How the base's matrices are kept, and a GPU computes.
    pub dtype: ModelDtype,
    /// What products of float32 operands are computed in.
    pub products: Products,
}

impl Numbers {
    /// Those in which a fault of a kernel shows.
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

/// Training on a device is not proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It computes something else than the CPU.
    #[error(
        "training on `{device}` is refused, its gradients in {numbers} are not those of the \
    CPU: {verdict}"
    )]
    Refused {
        /// As the recipe says.
        device: terms::Device,
        /// In which the steps were taken.
        numbers: Numbers,
        /// What was found.
        verdict: Box<Verdict>,
    },
    /// The proof came to no end there.
    #[error("training on `{device}` is refused, its proof in {numbers} ended with `{words}`")]
    Ended {
        /// As the recipe says.
        device: terms::Device,
        /// In which the steps were taken.
        numbers: Numbers,
        /// What the device's driver or burn said.
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

/// The steps on the device, with products of float32 operands in float32, held against those on the
/// CPU.
///
/// # Errors
/// As for [`prove_in`].
pub fn prove(tiny: &ProbeModel, device: &Device) -> Result<Verdict, String> {
    prove_in(tiny, device, Products::Float32)
}

/// The steps on the device held against those on the CPU.
///
/// # Errors
/// burn or a kernel gave up on the way: what they said.
///
/// # Panics
/// The device failed or ran out of memory, as anywhere else.
pub fn prove_in(tiny: &ProbeModel, device: &Device, products: Products) -> Result<Verdict, String> {
    let found = products.compute(|| on_device(tiny, device, &PASSES, &mut ()))?;
    let expected = trace(tiny, &Device::flex(), &PASSES, &mut ());
    Ok(Verdict::of(
        &found,
        &expected,
        Bound::of(tiny.storage.dtype, products),
    ))
}

/// What some passes compute there.
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

/// The verdict that is kept in a cache folder of a device that was found, or a new one, which is
/// kept there from now on. Training in 16 bits or in TF32 is proven where that in float32 is:
/// bounds of coarse numbers let a small fault pass, and the kernels are the same but for products.
/// Those of the proof in float32 never use TF32, so that it fails for faults only, and a verdict in
/// TF32 is asked for by nobody but a run in TF32.
///
/// # Errors
/// Training there is not proven. What cannot be kept is no error: the next start proves it again.
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

/// Whether training on a device in 32 bits was proven and is nowhere refused, of all models of
/// which a cache folder keeps a verdict; `None` where it keeps none.
pub fn is_proven(found: &FoundDevice, cache: &Path) -> Option<bool> {
    let verdicts = verdict_cache::all_of(&found.identity(), cache);
    (!verdicts.is_empty()).then(|| verdicts.iter().all(Verdict::is_proven))
}

impl Verdict {
    /// Refuses a device on which training is not proven.
    ///
    /// # Errors
    /// It is not.
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
