//! Inspection of an adapter: its base, its modules, and how much it adds to each.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::Findings;
use crate::adapter::{peft, singular_values};
use crate::cli::{Failure, grouped};
use crate::files::safetensors::Archive;

/// Matrices of one module, as the file stores them.
struct Module {
    name: String,
    rank: usize,
    norm: f64,
    effective_rank: f64,
}

pub(super) fn look(path: &Path) -> Result<Findings, Failure> {
    let (mut found, config, archive) = (
        Findings::new("adapter", path),
        peft::read_json_config(path)?,
        peft::open(path)?,
    );
    let word = |key: &str| config[key].as_str().unwrap_or("not told").to_owned();
    found.tell(
        "base",
        word("base_model_name_or_path"),
        config["base_model_name_or_path"].clone(),
    );
    let is_on = |key: &str| config[key].as_bool().unwrap_or(false);
    let kinds = [
        ("use_rslora", ", alpha / sqrt(r)"),
        ("use_dora", ", DoRA"),
        ("lora_bias", ", with biases"),
    ];
    let kind: String = kinds
        .iter()
        .filter(|(key, _)| is_on(key))
        .map(|(_, word)| *word)
        .collect();
    let line = format!(
        "r {}, alpha {}, dropout {}{kind}",
        config["r"], config["lora_alpha"], config["lora_dropout"]
    );
    found.tell(
        "rank",
        line,
        json!({"r": config["r"], "alpha": config["lora_alpha"], "dropout": config["lora_dropout"]}),
    );
    let parameters: u64 = archive
        .shapes()
        .values()
        .map(|shape| shape.iter().product::<usize>() as u64)
        .sum();
    found.tell(
        "parameters",
        format!("{} in {} tensors", grouped(parameters), archive.tensors()),
        json!(parameters),
    );
    if let Some(score) = peft::read_config(path).ok().and_then(|config| config.score) {
        let names: Vec<String> = (0..score.labels).map(|label| score.name(label)).collect();
        found.tell(
            "score head",
            format!("{} scores: {}", score.labels, names.join(", ")),
            json!({"labels": names, "task_type": score.task_type()}),
        );
    }
    // Parts that cannot be read are reported here too, not only when the adapter is loaded.
    let notes = peft::notes(path, None).unwrap_or_else(|error| vec![error.to_string()]);
    if !notes.is_empty() {
        found.tell("notes", notes.join("; "), json!(notes));
    }
    let modules = modules(&config, &archive)?;
    targets(&modules, &archive, &mut found);
    deltas(&modules, &mut found);
    Ok(found)
}

/// Returns the modules with an A and a B. Their scale is in the config.
fn modules(config: &Value, archive: &Archive) -> Result<Vec<Module>, Failure> {
    let (alpha, is_rslora) = (
        config["lora_alpha"].as_f64().unwrap_or(1.0),
        config["use_rslora"].as_bool().unwrap_or(false),
    );
    let alphas = config["alpha_pattern"]
        .as_object()
        .filter(|alphas| !alphas.is_empty());
    let mut modules = Vec::new();
    for (name, [of_a, of_b]) in peft::pairs_in(archive) {
        let Some(&[rank, _]) = archive.shape(&of_a) else {
            continue;
        };
        let [Some(a), Some(b)] = [archive.read_f32(&of_a)?, archive.read_f32(&of_b)?] else {
            continue;
        };
        let ends = |pattern: &&String| name == **pattern || name.ends_with(&format!(".{pattern}"));
        let alpha = alphas
            .and_then(|alphas| alphas.iter().find(|(pattern, _)| ends(pattern))?.1.as_f64())
            .unwrap_or(alpha);
        let divisor = if is_rslora {
            (rank as f64).sqrt()
        } else {
            rank as f64
        };
        let singular = singular_values::singular_values(&a, &b, rank, alpha / divisor);
        let (norm, effective_rank) = (
            singular_values::norm(&singular),
            singular_values::effective_rank(&singular),
        );
        modules.push(Module {
            name,
            rank,
            norm,
            effective_rank,
        });
    }
    Ok(modules)
}

fn targets(modules: &[Module], archive: &Archive, found: &mut Findings) {
    let mut leaves: BTreeMap<&str, usize> = BTreeMap::new();
    for module in modules {
        *leaves
            .entry(module.name.rsplit('.').next().unwrap_or_default())
            .or_default() += 1;
    }
    let said = leaves
        .iter()
        .map(|(leaf, count)| format!("{leaf} x {count}"))
        .collect::<Vec<_>>()
        .join(", ");
    found.tell("targets", said, json!(leaves));
    let others: Vec<String> = archive
        .shapes()
        .into_keys()
        .filter(|key| !key.contains(".lora_A.") && !key.contains(".lora_B."))
        .collect();
    if !others.is_empty() {
        found.tell("other_tensors", others.join(", "), json!(others));
    }
}

/// Adds the norms of s B A by layer, and the number of effective directions.
fn deltas(modules: &[Module], found: &mut Findings) {
    let each: Vec<Value> = modules
        .iter()
        .map(|module| {
            json!({
                "name": module.name,
                "r": module.rank,
                "norm": module.norm,
                "effective_rank": module.effective_rank,
            })
        })
        .collect();
    let total = modules
        .iter()
        .map(|module| module.norm * module.norm)
        .sum::<f64>()
        .sqrt();
    let verdict = match total {
        total if !total.is_finite() => ": it holds numbers that are not finite",
        0.0 => ": it adds nothing",
        _ => "",
    };
    found.tell(
        "modules",
        format!(
            "{}, all together of norm {total:.4}{verdict}",
            modules.len()
        ),
        json!(each),
    );
    found.object["norm"] = json!(total);
    let mut layers: BTreeMap<usize, Vec<&Module>> = BTreeMap::new();
    for module in modules {
        let layer = module
            .name
            .split('.')
            .find_map(|part| part.parse().ok())
            .unwrap_or(usize::MAX);
        layers.entry(layer).or_default().push(module);
    }
    for (layer, modules) in layers {
        let norm = modules
            .iter()
            .map(|module| module.norm * module.norm)
            .sum::<f64>()
            .sqrt();
        let ranks = || modules.iter().map(|module| module.effective_rank);
        let [least, most] = [
            ranks().fold(f64::INFINITY, f64::min),
            ranks().fold(0.0, f64::max),
        ];
        let mean = ranks().sum::<f64>() / modules.len() as f64;
        let name = if layer == usize::MAX {
            "outside layers".to_owned()
        } else {
            format!("layer {layer}")
        };
        found.more(format!(
            "{name}: norm {norm:.4}, effective rank {mean:.2} ({least:.2} to {most:.2})"
        ));
    }
}
