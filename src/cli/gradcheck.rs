//! The gradient proof as the command line has it: before the first step on a device, and by itself.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::{Failure, print};
use crate::device::{self, DeviceClass, FoundDevice};
use crate::fault::{Exit, Fault};
use crate::files::cache_folder;
use crate::model::{Folder, Storage};
use crate::plan::Plan;
use crate::proof::{self, Key, Numbers, ProbeModel, Products, ProofError, Verdict};
use crate::report::{Event, Reporter};
use crate::terms::{self, Method, ModelDtype};

/// Proves the device of a run before its first step, unless its proof is kept, or it is the CPU,
/// which others are held against. With `force` a device that is refused is used nevertheless, with
/// a note.
pub(super) fn before_training(
    plan: &Plan,
    storage: Storage,
    device: &Device,
    force: bool,
    report: Reporter,
) -> Result<(), Failure> {
    let Some(found) =
        device::find(plan.device).filter(|found| found.kind != DeviceClass::Processor)
    else {
        return Ok(());
    };
    let tiny = ProbeModel::of(&plan.model.spec, storage, plan.trains.method());
    match proof::prove_once(&found, &tiny, device, plan.products(), &cache_folder()) {
        Ok(verdict) => report(Event::Note(format!(
            "training on `{}` is proven: {verdict}",
            plan.device
        ))),
        Err(error) if force => report(Event::Note(format!(
            "{error}; going on because of \
        `--force`"
        ))),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Whether some model's training is proven on a device, and none is refused. Nothing is proven
/// here.
pub(super) fn is_proven(found: &FoundDevice) -> bool {
    found.kind == DeviceClass::Processor
        || proof::is_proven(found, &cache_folder()).unwrap_or(false)
}

/// What is proven of a device.
pub(super) struct Asked<'a> {
    pub device: terms::Device,
    /// The folder of a model whose mechanisms are proven; `None`: those of all families are.
    pub model: Option<&'a Path>,
    pub dtype: ModelDtype,
    /// Prove products in TF32 besides.
    pub with_tf32: bool,
}

/// Proves a device anew, and prints and keeps what came of it.
pub(super) fn gradcheck(
    Asked {
        device: asked,
        model,
        dtype,
        with_tf32,
    }: Asked,
    as_json: bool,
) -> Result<(), Failure> {
    if let Some(refusal) = device::find(asked)
        .filter(|_| with_tf32)
        .and_then(|found| found.tf32_refusal())
    {
        let fault = Fault::new(format!("--allow-tf32: {refusal}"));
        return Err(Failure::new(
            Exit::Input,
            fault.hint("leave it out, or choose another device"),
        ));
    }
    device::allow_tf32(with_tf32);
    let tiny = match model {
        Some(folder) => {
            let folder = Folder::open(folder)?;
            let dtype = folder.kept_in(dtype, device::halves(asked))?;
            ProbeModel::of(&folder.spec, dtype, Method::Lora)
        }
        None => ProbeModel::of_all_mechanisms(dtype, Method::Lora),
    };
    let opened = device::open(asked)?;
    let verdict = proven(asked, &tiny, &opened, Products::Float32)?;
    let in_tf32 = with_tf32
        .then(|| proven(asked, &tiny, &opened, Products::Tf32))
        .transpose()?;
    if as_json {
        print(object(asked, &tiny, &verdict, in_tf32.as_ref()))?;
    } else {
        print(format_args!("device     {asked}"))?;
        print(format_args!("model      {}", tiny.spec.describe()))?;
        for (what, verdict) in [
            ("gradients", Some(&verdict)),
            ("with TF32", in_tf32.as_ref()),
        ] {
            let Some(verdict) = verdict else { continue };
            print(format_args!(
                "{what:<9}  {}: {verdict}",
                if verdict.is_proven() {
                    "proven"
                } else {
                    "refused"
                }
            ))?;
        }
    }
    let dtype = tiny.storage.dtype;
    verdict.check(
        asked,
        Numbers {
            dtype,
            products: Products::Float32,
        },
    )?;
    Ok(in_tf32.map_or(Ok(()), |verdict| {
        verdict.check(
            asked,
            Numbers {
                dtype,
                products: Products::Tf32,
            },
        )
    })?)
}

/// A new verdict, which is kept.
fn proven(
    asked: terms::Device,
    tiny: &ProbeModel,
    opened: &Device,
    products: Products,
) -> Result<Verdict, Failure> {
    let numbers = Numbers {
        dtype: tiny.storage.dtype,
        products,
    };
    let verdict = proof::prove_in(tiny, opened, products).map_err(|words| ProofError::Ended {
        device: asked,
        numbers,
        words,
    })?;
    if let Some(found) = device::find(asked) {
        Key::of(&found.identity(), tiny, products).keep(&cache_folder(), &verdict)?;
    }
    Ok(verdict)
}

fn object(
    asked: terms::Device,
    tiny: &ProbeModel,
    verdict: &Verdict,
    in_tf32: Option<&Verdict>,
) -> Value {
    let mut object = json!({
        "device": asked.to_string(),
        "model": tiny.spec.describe(),
        "proven": verdict.is_proven(),
        "verdict": verdict,
    });
    if let Some(verdict) = in_tf32 {
        object["with_tf32"] = json!({"proven": verdict.is_proven(), "verdict": verdict});
    }
    object
}
