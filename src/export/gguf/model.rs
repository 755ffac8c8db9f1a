//! A model's folder as one GGUF file, with the keys and names of llama.cpp's `convert_hf_to_gguf.py`.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::architecture::{Architecture, differences, frequency_divisors, hyperparameters, module_name};
use super::container::{Info, Value};
use super::vocabulary::vocabulary;
use super::{Error, Kind, Numbers, Part, Written, write};
use crate::export::card::Base;
use crate::files::safetensors::Archive;
use crate::model::{DecoderSpec, Folder, shard_paths};
use crate::report::{Event, Reporter};

/// Writes the model of a folder to the file `path`, its matrices in `kind`.
///
/// # Errors
/// The folder is not whole, llama.cpp has nothing that computes or tokenises as it does, the file is there or cannot be written, or
/// `interrupt` was raised.
pub fn write_gguf_model(
    folder: &Path,
    path: &Path,
    kind: Kind,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Written, Error> {
    let model = Folder::open(folder)?;
    if model.stored_form()?.is_some() {
        return Err(Error::Packed { folder: folder.to_owned() });
    }
    let (spec, architecture) = (&model.spec, Architecture::of(&model.spec)?);
    let shards = shard_paths(folder)?.iter().map(|path| Archive::open(path)).collect::<Result<Vec<_>, _>>()?;
    let mut pairs = general(folder, architecture, kind);
    pairs.extend(hyperparameters(architecture, spec)?);
    pairs.extend(vocabulary(folder, spec.vocabulary)?);
    let mut parts = Vec::new();
    if let Some(divisors) = spec.layers[0].mixer.rope().and_then(frequency_divisors) {
        let info = Info { name: "rope_freqs.weight".to_owned(), shape: vec![divisors.len()], kind: Kind::F32 };
        parts.push(Part { info, numbers: Numbers::Here(divisors) });
    }
    for (name, shape) in spec.tensors() {
        parts.push(part(&shards, architecture, spec, kind, (name, shape))?);
    }
    if let Some(difference) = differences(spec) {
        report(Event::Note(difference));
    }
    write(path, &pairs, &parts, interrupt, report)
}

/// Refuses a model's folder of which [`write_gguf_model`] would not write a file, by everything but the weights.
///
/// # Errors
/// llama.cpp has nothing that computes or tokenises as it does.
pub fn check_model(folder: &Path) -> Result<(), Error> {
    let spec = Folder::open(folder)?.spec;
    hyperparameters(Architecture::of(&spec)?, &spec)?;
    vocabulary(folder, spec.vocabulary).map(drop)
}

/// llama.cpp's name of what computes as this decoder does.
///
/// # Errors
/// There is nothing.
pub fn architecture_name(spec: &DecoderSpec) -> Result<&'static str, Error> {
    Architecture::of(spec).map(Architecture::name)
}

fn general(folder: &Path, architecture: Architecture, kind: Kind) -> Vec<(String, Value)> {
    // Of a folder in the Hub's cache its id, not the commit by which it is called.
    let name = Base::name_of(folder);
    let text = |key: &str, text: &str| (format!("general.{key}"), Value::Text(text.to_owned()));
    vec![
        text("architecture", architecture.name()),
        text("type", "model"),
        text("name", &name),
        ("general.file_type".to_owned(), Value::U32(kind.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ]
}

/// A tensor under its name there.
fn part<'a>(
    shards: &'a [Archive],
    architecture: Architecture,
    spec: &DecoderSpec,
    kind: Kind,
    (name, shape): (String, Vec<usize>),
) -> Result<Part<'a>, Error> {
    let known = || {
        let (module, end) = name.rsplit_once('.')?;
        Some((module, format!("{}.{end}", module_name(module)?)))
    };
    let (module, gguf) = known().ok_or_else(|| Error::NotKnown { what: format!("tensor `{name}`") })?;
    let heads = architecture.reordered_heads(module, spec);
    let archive = shards.iter().find(|shard| shard.shape(&name).is_some()).expect("the weights were checked");
    let info = Info { name: gguf, kind: kind.of_tensor(&shape), shape };
    Ok(Part { info, numbers: Numbers::Stored { archive, heads, name } })
}
