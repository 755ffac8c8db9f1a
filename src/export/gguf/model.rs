//! Writes a model's folder as one GGUF file, with the keys and names of llama.cpp's
//! `convert_hf_to_gguf.py`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::container::Info;
use super::mix::{MixedModel, mixed};
use super::vocabulary::vocabulary;
use super::{GgmlType, GgufError, Numbers, StoredTensor, TensorPart, TensorType, Written, write};
use crate::export::card::Base;
use crate::files::safetensors::Archive;
use crate::model::gguf::{
    Architecture, ROUTER, Value, differences, divisors, hyperparameters, own_place,
    places as modules,
};
use crate::model::{DecoderSpec, Folder, gguf_paths, shard_paths, user_path};
use crate::report::{Event, Reporter};

/// Writes the model of a folder to the file `path`, its matrices in `kind`.
///
/// The folder is incomplete, llama.cpp has nothing that computes or tokenizes the same, the file
/// exists or cannot be written, or `interrupt` was raised.
/// # Errors
/// The folder is not whole, llama.cpp has nothing that computes or tokenizes as it does, the file
/// is there or cannot be written, or `interrupt` was raised.
pub fn write_gguf_model(
    folder: &Path,
    path: &Path,
    kind: GgmlType,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Written, GgufError> {
    let model = Folder::open(folder)?;
    if gguf_paths(folder)?.is_some() {
        return Err(GgufError::IsGguf {
            path: user_path(folder),
        });
    }
    if model.stored_form()?.is_some() {
        return Err(GgufError::Packed {
            folder: folder.to_owned(),
        });
    }
    let (spec, architecture) = (&model.spec, Architecture::of(&model.spec)?);
    let shards = shard_paths(folder)?
        .iter()
        .map(|path| Archive::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut pairs = general(folder, architecture, kind);
    pairs.extend(hyperparameters(architecture, spec));
    pairs.extend(vocabulary(folder, spec.vocabulary)?);
    let mut parts = Vec::new();
    for (name, divisors) in divisors(spec) {
        let info = Info {
            name: name.to_owned(),
            shape: vec![divisors.len()],
            kind: TensorType::F32,
        };
        parts.push(TensorPart {
            info,
            numbers: Numbers::Here(divisors),
        });
    }
    parts.extend(stored(&shards, architecture, spec, kind)?);
    let infos = parts.iter().map(|part| &part.info).collect::<Vec<_>>();
    let types = mixed(kind, &MixedModel::of(spec, architecture.name), &infos);
    for (part, chosen) in parts.iter_mut().zip(types) {
        part.info.kind = chosen.unwrap_or(part.info.kind);
    }
    for difference in differences(architecture, spec) {
        report(Event::Note(difference));
    }
    write(path, &pairs, &parts, interrupt, report)
}

/// Checks everything except the weights of a model's folder, and refuses it if [`write_gguf_model`]
/// would.
///
/// # Errors
/// llama.cpp has nothing that computes or tokenizes the same.
pub fn check_model(folder: &Path) -> Result<(), GgufError> {
    let spec = Folder::open(folder)?.spec;
    Architecture::of(&spec)?;
    vocabulary(folder, spec.vocabulary).map(drop)
}

/// Returns llama.cpp's name of the architecture that computes the same as this decoder.
///
/// # Errors
/// There is no such architecture.
pub fn architecture_name(spec: &DecoderSpec) -> Result<&'static str, GgufError> {
    Ok(Architecture::of(spec)?.name)
}

fn general(folder: &Path, architecture: &Architecture, kind: GgmlType) -> Vec<(String, Value)> {
    // Of a folder in the Hub's cache its id, not the commit by which it is called.
    let name = Base::name_of(folder);
    let text = |key: &str, text: &str| (format!("general.{key}"), Value::Text(text.to_owned()));
    vec![
        text("architecture", architecture.name),
        text("type", "model"),
        text("name", &name),
        ("general.file_type".to_owned(), Value::U32(kind.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ]
}

/// Returns every tensor under its GGUF name, with experts stacked.
fn stored<'a>(
    shards: &'a [Archive],
    architecture: &'static Architecture,
    spec: &DecoderSpec,
    kind: GgmlType,
) -> Result<Vec<TensorPart<'a>>, GgufError> {
    let named = |archive: &'a Archive| {
        archive
            .shapes()
            .into_keys()
            .map(move |name| (spec.names.canonical(&name), (archive, name)))
            .collect::<Vec<_>>()
    };
    let places: BTreeMap<String, (&Archive, String)> = shards.iter().flat_map(named).collect();
    let (mut parts, mut stacks) = (Vec::<TensorPart>::new(), BTreeMap::<String, usize>::new());
    for (name, shape) in spec.tensors() {
        let unnamed = || GgufError::Unnamed {
            module: name.clone(),
            name: architecture.name,
        };
        let (module, end) = name.rsplit_once('.').ok_or_else(unnamed)?;
        let (archive, stored) = places
            .get(&name)
            .cloned()
            .expect("the weights were checked");
        let own = own_place(&name, &shape, spec);
        if let Some(own) = own {
            let info = Info {
                name: own.name,
                shape: own.shape,
                kind: TensorType::F32,
            };
            let stored = StoredTensor {
                archive,
                name: stored,
                half: None,
                change: own.change,
            };
            let numbers = Numbers::Stored(vec![stored]);
            parts.push(TensorPart { info, numbers });
            continue;
        }
        for place in modules(module, architecture, spec).ok_or_else(unnamed)? {
            let stored = StoredTensor {
                archive,
                name: stored.clone(),
                half: place.half,
                change: architecture.change(module, end, spec),
            };
            let gguf = format!("{}.{end}", place.module);
            if let Some(index) = stacks.get(&gguf) {
                parts[*index].take(stored);
                continue;
            }
            let mut shape = shape.clone();
            if place.half.is_some() {
                let rows = shape.len() - 2;
                shape[rows] /= 2;
            }
            if place.expert.is_some() {
                shape.insert(0, 1);
                stacks.insert(gguf.clone(), parts.len());
            }
            let kind = if place.module.ends_with(ROUTER) || is_weight_of_shared(&shape) {
                TensorType::F32
            } else {
                kind.of_tensor(&shape)
            };
            // The weight of the shared expert is a vector there.
            let shape = if is_weight_of_shared(&shape) {
                vec![shape[1]]
            } else {
                shape
            };
            let info = Info {
                name: gguf,
                shape,
                kind,
            };
            let numbers = Numbers::Stored(vec![stored]);
            parts.push(TensorPart { info, numbers });
        }
    }
    Ok(parts)
}

/// Whether a matrix has one row, as the weight of the shared expert has.
fn is_weight_of_shared(shape: &[usize]) -> bool {
    matches!(shape, [1, _])
}
