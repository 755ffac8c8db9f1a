//! An adapter alone as a GGUF file, as llama.cpp's `convert_lora_to_gguf.py` writes it, for `--lora` beside a model of the same base.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::architecture::{Architecture, module_name, neighbours};
use super::container::{Info, Value};
use super::{Error, Kind, Numbers, Part, Written, write};
use crate::adapter::Error as AdapterError;
use crate::adapter::peft::{self, LastB, Stored};
use crate::files::safetensors::Archive;
use crate::model::{DecoderSpec, Folder};
use crate::report::Reporter;

/// Writes the adapter of a PEFT folder, made for the model in `base`, to the file `path`, in f32.
///
/// # Errors
/// The adapter is not whole or not one of this base, llama.cpp has nothing that computes as the base does, the file is there or
/// cannot be written, or `interrupt` was raised.
pub fn write_gguf_adapter(
    adapter: &Path,
    base: &Path,
    path: &Path,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Written, Error> {
    let spec = Folder::open(base)?.spec;
    let architecture = Architecture::of(&spec)?;
    let (config, archive) = (peft::read_config(adapter)?, peft::open(adapter)?);
    let stored = peft::stored_in(&archive, "", &config, &spec.modules())?;
    if let Some(vector) = config.vector {
        return Err(AdapterError::NoPlace { format: "llama.cpp's", vector }.into());
    }
    // llama.cpp scales every module by alpha / r, so alpha is what makes that right for the first one, rsLoRA's too.
    let alpha = stored.first().map_or(1.0, |first| first.target.scale * first.target.rank as f64);
    let mut parts = Vec::new();
    for stored in &stored {
        parts.extend(pair(stored, &archive, architecture, &spec, alpha)?);
    }
    let text = |key: &str, text: &str| (key.to_owned(), Value::Text(text.to_owned()));
    let pairs = [
        text("general.architecture", architecture.name()),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha as f32)),
    ];
    write(path, &pairs, &parts, interrupt, report)
}

/// A and B of a module. Where alpha / r is not its scale, B makes up for it; where q and k are turned otherwise, B's rows move.
fn pair<'a>(
    stored: &Stored,
    archive: &Archive,
    architecture: Architecture,
    spec: &DecoderSpec,
    alpha: f64,
) -> Result<[Part<'a>; 2], Error> {
    let (module, rank) = (&stored.target.module, stored.target.rank);
    // What it does with matrices of embedding and head depends on whether they are one table.
    let in_layer = spec.projections().iter().any(|linear| linear.name == *module);
    let name =
        module_name(module).filter(|_| in_layer).ok_or_else(|| Error::NotKnown { what: format!("an adapter of `{module}`") })?;
    let [a, b] = stored.read(archive, &LastB::default())?;
    let missing = stored.target.scale * rank as f64 / alpha;
    let b: Vec<f32> = b.into_iter().map(|number| (f64::from(number) * missing) as f32).collect();
    let b = match architecture.reordered_heads(module, spec) {
        Some(heads) => b.chunks(b.len() / heads).flat_map(|head| neighbours(head, rank)).collect(),
        None => b,
    };
    if !a.iter().chain(&b).all(|number| Kind::F32.holds(*number)) {
        return Err(Error::NotHeld { tensor: module.clone(), kind: Kind::F32 });
    }
    let part = |end: &str, shape: [usize; 2], numbers| Part {
        info: Info { name: format!("{name}.weight.{end}"), shape: shape.to_vec(), kind: Kind::F32 },
        numbers: Numbers::Here(numbers),
    };
    Ok([part("lora_a", [rank, a.len() / rank], a), part("lora_b", [b.len() / rank, rank], b)])
}
