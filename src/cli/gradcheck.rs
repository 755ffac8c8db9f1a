//! The gradient proof as the command line has it: before the first step on a device, and by itself.

use std::path::Path;

use serde_json::{Value, json};

use super::{Failure, print};
use crate::device;
use crate::model::Folder;
use crate::plan::{Plan, Trains, cache_folder};
use crate::proof::{self, Error, Key, Tiny, Verdict};
use crate::report::{Event, Reporter};
use crate::terms::{self, Method, ModelDtype};

/// Proves the device of a run before its first step, unless its proof is kept, or it is the CPU, which others are held against. With
/// `force` a device that is refused is used nevertheless, with a note.
pub(super) fn before_training(plan: &Plan, force: bool, report: Reporter) -> Result<(), Failure> {
    if plan.device == terms::Device::Cpu {
        return Ok(());
    }
    let trained = match plan.trains {
        Trains::Adapter(_) => Method::Lora,
        Trains::Everything => Method::Full,
    };
    let tiny = Tiny::of(&plan.model.spec, plan.model_dtype(), trained);
    let opened = device::open(plan.device, force)?;
    match proof::prove_once(plan.device, &tiny, &opened, key(plan.device, &tiny).as_ref(), &cache_folder()) {
        Ok(verdict) => report(Event::Note(format!("training on `{}` is proven: {verdict}", plan.device))),
        Err(error) if force => report(Event::Note(format!("{error}; going on because of `--force`"))),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Proves a device anew, with the mechanisms of a model or with all, and prints and keeps what came of it.
#[allow(dead_code, reason = "`doctor` is to call it")]
pub(super) fn gradcheck(asked: terms::Device, model: Option<&Path>, as_json: bool) -> Result<(), Failure> {
    let (dtype, trained) = (ModelDtype::Float32, Method::Lora);
    let tiny = match model {
        Some(folder) => Tiny::of(&Folder::open(folder)?.spec, dtype, trained),
        None => Tiny::of_all_mechanisms(dtype, trained),
    };
    let opened = device::open(asked, true)?;
    let verdict = proof::prove(&tiny, &opened).map_err(|words| Error::Ended { device: asked, words })?;
    if let Some(key) = key(asked, &tiny) {
        key.keep(&cache_folder(), &verdict)?;
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

/// What the proof on a device is kept under; nothing where its driver is not known: then it is made anew at each start.
#[allow(clippy::unnecessary_wraps, reason = "a device that tells its driver has one")]
fn key(_: terms::Device, _: &Tiny) -> Option<Key> {
    None
}
