//! The gradient proof as the command line has it: before the first step on a device, and by itself.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::{Failure, print};
use crate::device::{self, Found, Kind};
use crate::files::cache_folder;
use crate::model::Folder;
use crate::plan::Plan;
use crate::proof::{self, Error, Key, Tiny, Verdict};
use crate::report::{Event, Reporter};
use crate::terms::{self, Method, ModelDtype};

/// Proves the device of a run before its first step, unless its proof is kept, or it is the CPU, which others are held against. With
/// `force` a device that is refused is used nevertheless, with a note.
pub(super) fn before_training(plan: &Plan, device: &Device, force: bool, report: Reporter) -> Result<(), Failure> {
    let Some(found) = device::find(plan.device).filter(|found| found.kind != Kind::Processor) else { return Ok(()) };
    let tiny = Tiny::of(&plan.model.spec, plan.storage, plan.trains.method());
    match proof::prove_once(&found, &tiny, device, &cache_folder()) {
        Ok(verdict) => report(Event::Note(format!("training on `{}` is proven: {verdict}", plan.device))),
        Err(error) if force => report(Event::Note(format!("{error}; going on because of `--force`"))),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Whether some model's training is proven on a device, and none is refused. Nothing is proven here.
pub(super) fn is_proven(found: &Found) -> bool {
    found.kind == Kind::Processor || proof::is_proven(found, &cache_folder()).unwrap_or(false)
}

/// Proves a device anew, with the mechanisms of a model or with all, and prints and keeps what came of it.
pub(super) fn gradcheck(asked: terms::Device, model: Option<&Path>, dtype: ModelDtype, as_json: bool) -> Result<(), Failure> {
    let tiny = match model {
        Some(folder) => {
            let folder = Folder::open(folder)?;
            let dtype = folder.kept_in(dtype, device::halves(asked))?;
            Tiny::of(&folder.spec, dtype, Method::Lora)
        }
        None => Tiny::of_all_mechanisms(dtype, Method::Lora),
    };
    let opened = device::open(asked)?;
    let verdict = proof::prove(&tiny, &opened).map_err(|words| Error::Ended { device: asked, words })?;
    if let Some(found) = device::find(asked) {
        Key::of(&found.identity(), &tiny).keep(&cache_folder(), &verdict)?;
    }
    if as_json {
        print(object(asked, &tiny, &verdict))?;
    } else {
        print(format_args!("device     {asked}"))?;
        print(format_args!("model      {}", tiny.spec.describe()))?;
        print(format_args!("gradients  {}: {verdict}", if verdict.is_proven() { "proven" } else { "refused" }))?;
    }
    Ok(verdict.check(asked)?)
}

fn object(asked: terms::Device, tiny: &Tiny, verdict: &Verdict) -> Value {
    json!({
        "device": asked.to_string(),
        "model": tiny.spec.describe(),
        "proven": verdict.is_proven(),
        "verdict": verdict,
    })
}
