//! The gradient check of a device on the command line.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::{Failure, print};
use crate::device;
use crate::fault::{Exit, Fault};
use crate::files::cache_folder;
use crate::model::Folder;
use crate::proof::{self, Key, Numbers, ProbeModel, Products, ProofError, Verdict};
use crate::terms::{self, Method, ModelDtype};

/// What to prove on a device.
pub(super) struct Asked<'a> {
    pub device: terms::Device,
    /// Folder of a model whose mechanisms are proven; `None` for those of all model families.
    pub model: Option<&'a Path>,
    pub dtype: ModelDtype,
    /// Whether to prove products in TF32 too.
    pub with_tf32: bool,
}

/// Runs the proof on a device, prints its result and stores it.
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

/// Runs the proof and stores its verdict.
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
