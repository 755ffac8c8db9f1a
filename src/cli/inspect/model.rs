//! Inspection of a base: its architecture, its files, and what comes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::{Findings, share};
use crate::cli::{Failure, grouped};
use crate::data::tokenize::Tokenizer;
use crate::files::gguf::Gguf;
use crate::files::license::{License, notice_paths, readme_head};
use crate::files::safetensors::Archive;
use crate::files::{is_there, read_text};
use crate::model::{DecoderSpec, Folder, LinearKind, gguf_paths, shard_paths, user_path};
use crate::plan::leftover_note;
use crate::report::mebibytes;

pub(super) fn look(path: &Path) -> Result<Findings, Failure> {
    let folder = Folder::open(path)?;
    folder.check_weights()?;
    let (spec, mut found) = (&folder.spec, Findings::new("model", &user_path(path)));
    let config: Value =
        serde_json::from_str(&read_text(&path.join("config.json"))?).unwrap_or_default();
    let family = config["model_type"].as_str().unwrap_or_default();
    found.tell(
        "architecture",
        format!("{family}: {}", spec.describe()),
        json!({"model_type": family, "words": spec.describe()}),
    );
    parameters(spec, &mut found);
    tensors(path, &mut found)?;
    if let Some(form) = folder.stored_form()? {
        found.tell("packed", form.to_string(), json!(form.to_string()));
    }
    if let Some(method) = &folder.leftover_quantization {
        found.tell(
            "leftover_quantization",
            leftover_note(method),
            json!(method),
        );
    }
    projections(spec, &mut found);
    found.tell(
        "context",
        format!("{} tokens", grouped(spec.context as u64)),
        json!(spec.context),
    );
    defaults(&folder, &mut found);
    license(path, &mut found);
    if is_there(&path.join("tokenizer.json"))? {
        tokenizer(path, spec.vocabulary, &mut found)?;
    } else {
        found.tell("tokenizer", "there is no tokenizer.json", Value::Null);
    }
    Ok(found)
}

/// Adds the keys that config.json leaves out, with their defaults in transformers, and the keys
/// that only affect training.
fn defaults(folder: &Folder, found: &mut Findings) {
    let told = |(key, value): &(String, Value)| format!("{key} {value}");
    let said = folder
        .filled
        .iter()
        .map(told)
        .collect::<Vec<_>>()
        .join(", ");
    let object = |pairs: &[(String, Value)]| {
        pairs
            .iter()
            .cloned()
            .collect::<serde_json::Map<String, Value>>()
    };
    let line = if said.is_empty() {
        "none: config.json names every key".to_owned()
    } else {
        said
    };
    found.tell("filled_by_default", line, json!(object(&folder.filled)));
    if !folder.in_training.is_empty() {
        let said = folder
            .in_training
            .iter()
            .map(|(key, share)| format!("{key} {share}"))
            .collect::<Vec<_>>()
            .join(", ");
        let line = format!("{said}: not built; `training.base_dropout: 0` trains without");
        let object: serde_json::Map<_, _> = folder
            .in_training
            .iter()
            .map(|(key, share)| (key.clone(), json!(share)))
            .collect();
        found.tell("in_training_only", line, json!(object));
    }
}

/// Adds the parameters by purpose: tables, attention, recurrences, feed-forward, routed experts,
/// and norms and other vectors.
fn parameters(spec: &DecoderSpec, found: &mut Findings) {
    let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
    let experts: u64 = spec
        .projections()
        .iter()
        .filter(|linear| linear.kind != LinearKind::Module)
        .map(|linear| (linear.inputs * linear.outputs) as u64)
        .sum();
    let modules: BTreeSet<&str> = spec
        .layers
        .iter()
        .filter_map(|layer| layer.mixer.carrying_module())
        .collect();
    let carries = |name: &str| {
        let mut modules = modules.iter();
        modules.any(|module| name.contains(&format!(".{module}.")))
    };
    for (name, shape) in spec.tensors() {
        let numbers = shape.iter().product::<usize>() as u64;
        let part = match &name {
            name if *name == spec.names.embedding() => "embedding",
            name if *name == spec.names.head() => "head",
            name if *name == spec.names.per_layer_embedding() => "embedding of inputs per layer",
            _ if shape.len() == 1 => "norms, biases and other vectors",
            name if name.contains(&format!(".{}.", spec.names.attention)) => "attention",
            name if name.contains(".experts.") => "routed experts",
            name if name.contains("per_layer_") => "projections of inputs per layer",
            name if carries(name) => "recurrence",
            _ => "feed-forward",
        };
        *parts.entry(part).or_default() += numbers;
    }
    let total = spec.parameters() as u64;
    let active = total - experts
        + (spec.computed_parameters() as u64).saturating_sub(
            spec.projections()
                .iter()
                .filter(|linear| linear.kind == LinearKind::Module)
                .map(|linear| (linear.inputs * linear.outputs) as u64)
                .sum(),
        );
    let sent = if experts > 0 {
        format!(", of which a token meets {}", grouped(active))
    } else {
        String::new()
    };
    found.tell(
        "parameters",
        format!("{}{sent}", grouped(total)),
        json!({"total": total, "active": active, "parts": parts}),
    );
    for (part, numbers) in parts {
        found.more(format!("{part}: {}", share(numbers, total)));
    }
}

/// Adds the number types with the number of tensors of each, from the headers.
fn tensors(path: &Path, found: &mut Findings) -> Result<(), Failure> {
    let (mut types, mut count, mut bytes): (BTreeMap<String, u64>, u64, u64) =
        (BTreeMap::new(), 0, 0);
    let shards = shard_paths(path)?;
    let is_gguf = gguf_paths(path)?.is_some();
    for shard in shards.iter().filter(|_| is_gguf) {
        let file = Gguf::open(shard)?;
        bytes += shard.metadata().map_or(0, |data| data.len());
        for tensor in file.tensors().values() {
            *types.entry(tensor.kind.name().to_owned()).or_default() += 1;
            count += 1;
        }
    }
    for shard in shards.iter().filter(|_| !is_gguf) {
        let archive = Archive::open(shard)?;
        bytes += shard.metadata().map_or(0, |data| data.len());
        let others: BTreeMap<String, String> = archive
            .unreadable()
            .into_iter()
            .map(|(name, dtype)| (name, format!("{dtype:?}")))
            .collect();
        for name in archive.shapes().into_keys() {
            let dtype = match others.get(&name) {
                Some(dtype) => dtype.clone(),
                None => archive
                    .stored(&name)?
                    .map_or_else(String::new, |stored| stored.float.to_string()),
            };
            *types.entry(dtype).or_default() += 1;
            count += 1;
        }
    }
    let of_type = types
        .iter()
        .map(|(dtype, count)| format!("{count} {dtype}"))
        .collect::<Vec<_>>()
        .join(", ");
    let line = format!(
        "{count} in {} files of {}: {of_type}",
        shards.len(),
        mebibytes(bytes)
    );
    found.tell(
        "tensors",
        line,
        json!({"count": count, "files": shards.len(), "bytes": bytes, "dtypes": types}),
    );
    Ok(())
}

/// Adds the projections that adapters can target, by the last part of the name and the shape.
fn projections(spec: &DecoderSpec, found: &mut Findings) {
    let mut groups: Vec<(String, [usize; 2], bool, usize)> = Vec::new();
    for linear in spec.projections() {
        let is_routed = linear.kind != LinearKind::Module;
        let last = match &linear.kind {
            LinearKind::Stacked(slice) => slice
                .tensor
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .to_owned(),
            _ => linear
                .name
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .to_owned(),
        };
        let shape = [linear.inputs, linear.outputs];
        match groups
            .iter_mut()
            .find(|group| (&group.0, group.1, group.2) == (&last, shape, is_routed))
        {
            Some(group) => group.3 += 1,
            None => groups.push((last, shape, is_routed, 1)),
        }
    }
    let value: Vec<Value> = groups
        .iter()
        .map(|(name, [inputs, outputs], is_routed, count)| {
            json!({
                "name": name,
                "in": inputs,
                "out": outputs,
                "count": count,
                "of_experts": is_routed,
            })
        })
        .collect();
    let total: usize = groups.iter().map(|group| group.3).sum();
    found.tell(
        "projections",
        format!("{total} that adapters can target"),
        json!(value),
    );
    for (name, [inputs, outputs], is_routed, count) in groups {
        let of = if is_routed {
            " of routed experts, where they are named"
        } else {
            ""
        };
        found.more(format!("{name} [{inputs}, {outputs}] x {count}{of}"));
    }
}

fn license(path: &Path, found: &mut Findings) {
    let files: Vec<String> = notice_paths(path)
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let stated = License::stated(&readme_head(&path.join("README.md")));
    let said = stated.as_ref().map_or_else(
        || "not stated".to_owned(),
        |license| license.name.clone().unwrap_or(license.id.clone()),
    );
    let beside = if files.is_empty() {
        String::new()
    } else {
        format!("; files {}", files.join(", "))
    };
    found.tell(
        "license",
        format!("{said}{beside}"),
        json!({"stated": stated, "files": files}),
    );
}

fn tokenizer(path: &Path, rows: usize, found: &mut Findings) -> Result<(), Failure> {
    let tokenizer = Tokenizer::open(path)?;
    let ends = tokenizer
        .eos_ids()
        .iter()
        .map(|id| tokenizer.decode(&[*id], false))
        .collect::<Result<Vec<_>, _>>()?;
    let quoted = ends
        .iter()
        .map(|end| format!("`{end}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let line = format!(
        "{} tokens, ends with {quoted}",
        grouped(tokenizer.vocab_size() as u64)
    );
    found.tell(
        "tokenizer",
        line,
        json!({"tokens": tokenizer.vocab_size(), "ends": ends}),
    );
    let notes = tokenizer.notes(rows);
    for note in &notes {
        found.more(note.clone());
    }
    if !notes.is_empty() {
        found.object["tokenizer_notes"] = json!(notes);
    }
    let template = tokenizer.chat_template();
    let line = template.map_or_else(
        || "none: conversations need `chat_template` in a recipe".to_owned(),
        |source| {
            format!(
                "{} characters{}",
                source.chars().count(),
                if source.contains("tools") {
                    ", knows tools"
                } else {
                    ""
                }
            )
        },
    );
    let names = tokenizer.chat_templates().names();
    let line = if names.is_empty() {
        line
    } else {
        format!("{line}; further ones by name: {}", names.join(", "))
    };
    found.tell("chat_template", line, json!(template));
    Ok(())
}
