//! Whether training on a device can be trusted: two steps of a small model of the same mechanisms, on the device and on the CPU, compared
//! site by site.
//!
//! A kernel that is wrong trains without an error: a loss still falls where a part of the gradients is off. On the CPU the steps are held
//! against transformers and PEFT (`tests/parity.rs`); here a device is held against the CPU.

mod compare;
#[cfg(test)]
mod faults;
mod kept;
mod tiny;
mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::tensor::Device;

pub use compare::{Bound, Difference, Finding, Verdict};
pub use kept::Key;
pub use tiny::Tiny;
pub use trace::Site;

use crate::device::Found;
use crate::fault::{Exit, Explain};
use crate::files::panic_words;
use crate::model::Storage;
use crate::terms::{self, ModelDtype};
use crate::train::Observer;
use trace::{PASSES, Pass, trace};

/// Training on a device is not proven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It computes something else than the CPU.
    #[error("training on `{device}` is refused, its gradients are not those of the CPU: {verdict}")]
    Refused {
        /// As the recipe says.
        device: terms::Device,
        /// What was found.
        verdict: Box<Verdict>,
    },
    /// The proof came to no end there.
    #[error("training on `{device}` is refused, its proof ended with `{words}`")]
    Ended {
        /// As the recipe says.
        device: terms::Device,
        /// What the device's driver or burn said.
        words: String,
    },
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        Exit::Unavailable
    }

    fn hint(&self) -> Option<String> {
        Some("use `device: cpu`; another driver may be right; `--force` trains there nevertheless".into())
    }
}

/// The steps on the device held against those on the CPU.
///
/// # Errors
/// The device's driver or burn gave up on the way: what they said.
pub fn prove(tiny: &Tiny, device: &Device) -> Result<Verdict, String> {
    let found = on_device(tiny, device, &PASSES, &mut ())?;
    Ok(Verdict::of(&found, &trace(tiny, &Device::flex(), &PASSES, &mut ()), Bound::of(tiny.storage.dtype)))
}

/// What some passes compute there.
fn on_device(tiny: &Tiny, device: &Device, passes: &[Pass], through: &mut impl Observer) -> Result<Vec<Site>, String> {
    catch_unwind(AssertUnwindSafe(|| trace(tiny, device, passes, through))).map_err(|panic| panic_words(&*panic).to_owned())
}

/// The verdict that is kept in a cache folder of a device that was found, or a new one, which is kept there from now on. Training in 16
/// bits is proven where that in 32 is.
///
/// # Errors
/// Training there is not proven. What cannot be kept is no error: the next start proves it again.
pub fn prove_once(found: &Found, tiny: &Tiny, device: &Device, cache: &Path) -> Result<Verdict, Error> {
    if [ModelDtype::Bfloat16, ModelDtype::Float16].contains(&tiny.storage.dtype) {
        // Bounds of 16 bits let a small fault pass; the kernels are the same.
        prove_once(
            found,
            &Tiny { storage: Storage { dtype: ModelDtype::Float32, ..tiny.storage }, ..tiny.clone() },
            device,
            cache,
        )?;
    }
    let key = Key::of(&found.identity(), tiny);
    let verdict = if let Some(kept) = key.verdict(cache) {
        kept
    } else {
        let verdict = prove(tiny, device).map_err(|words| Error::Ended { device: found.device, words })?;
        let _ = key.keep(cache, &verdict);
        verdict
    };
    verdict.check(found.device).map(|()| verdict)
}

/// Whether training on a device in 32 bits was proven and is nowhere refused, of all models of which a cache folder keeps a verdict; `None` where it
/// keeps none.
pub fn is_proven(found: &Found, cache: &Path) -> Option<bool> {
    let verdicts = kept::all_of(&found.identity(), cache);
    (!verdicts.is_empty()).then(|| verdicts.iter().all(Verdict::is_proven))
}

impl Verdict {
    /// Refuses a device on which training is not proven.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, device: terms::Device) -> Result<(), Error> {
        if self.is_proven() { Ok(()) } else { Err(Error::Refused { device, verdict: Box::new(self.clone()) }) }
    }
}
