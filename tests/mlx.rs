//! `rankine export --to mlx` and `--to peft`: what is written adds to each weight what the adapter
//! adds. LOG.md has the run in which mlx-lm computed the goldens' logits from such folders.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::*;
use rankine::adapter::peft;
use rankine::export::{write_mlx, write_peft};
use rankine::files::safetensors::Archive;
use rankine::model::{Folder, LinearSpec};
use serde_json::Value;
use support::Desk;

fn projections() -> Vec<LinearSpec> {
    Folder::open(&golden("archs/llama/model"))
        .unwrap()
        .spec
        .projections()
}

/// scale B A of each module, [out, in].
fn deltas(adapter: &Path) -> BTreeMap<String, Vec<f32>> {
    let (config, linears) = (peft::read_config(adapter).unwrap(), projections());
    let names: Vec<String> = linears.iter().map(|linear| linear.name.clone()).collect();
    let numbers = peft::read_numbers(adapter, &config, &linears).unwrap();
    let of = |target: rankine::adapter::Target| {
        let [a, b] = &numbers[&target.module];
        let inputs = a.len() / target.rank;
        let entry = |index: usize| {
            let (row, column) = (index / inputs, index % inputs);
            let sum: f64 = (0..target.rank)
                .map(|k| f64::from(b[row * target.rank + k]) * f64::from(a[k * inputs + column]))
                .sum();
            (target.scale * sum) as f32
        };
        (
            target.module.clone(),
            (0..b.len() / target.rank * inputs).map(entry).collect(),
        )
    };
    config
        .resolve(&names)
        .unwrap()
        .into_iter()
        .map(of)
        .collect()
}

/// The same from mlx-lm's files: scale (A B)ᵀ.
fn mlx_deltas(folder: &Path) -> (BTreeMap<String, Vec<f32>>, Value) {
    let (archive, config) = (
        Archive::open(&folder.join("adapters.safetensors")).unwrap(),
        json(&folder.join("adapter_config.json")),
    );
    let scale = config["lora_parameters"]["scale"].as_f64().unwrap();
    let rank = usize::try_from(config["lora_parameters"]["rank"].as_u64().unwrap()).unwrap();
    let shapes = archive.shapes();
    let modules = shapes.keys().filter_map(|key| key.strip_suffix(".lora_a"));
    let of = |module: &str| {
        let read = |end: &str| {
            archive
                .read_f32(&format!("{module}.{end}"))
                .unwrap()
                .unwrap()
        };
        let (a, b) = (read("lora_a"), read("lora_b"));
        let shape = |end: &str| shapes[&format!("{module}.{end}")].clone();
        assert_eq!(
            (shape("lora_a")[1], shape("lora_b")[0]),
            (rank, rank),
            "{module}: one rank for all"
        );
        let (inputs, outputs) = (shape("lora_a")[0], shape("lora_b")[1]);
        let entry = |index: usize| {
            let (row, column) = (index / inputs, index % inputs);
            let sum: f64 = (0..rank)
                .map(|k| f64::from(a[column * rank + k]) * f64::from(b[k * outputs + row]))
                .sum();
            (scale * sum) as f32
        };
        (
            module.to_owned(),
            (0..inputs * outputs).map(entry).collect(),
        )
    };
    (modules.map(of).collect(), config)
}

#[test]
fn an_adapter_adds_the_same_in_mlx_lm() {
    let cases = [
        ("adapter", 2, 0.0),
        ("variants/rslora/adapter", 2, 0.0),
        ("variants/patterns/adapter", 2, 2e-7),
        ("variants/layers_to_transform/adapter", 1, 0.0),
    ];
    for (variant, layers, bound) in cases {
        let (adapter, folder) = (
            golden("archs/llama").join(variant),
            tempfile::tempdir().unwrap(),
        );
        let out = folder.path().join("new/mlx");
        let written = write_mlx(&adapter, "BASE", &projections(), &out).unwrap();
        assert_eq!(
            written.bytes,
            fs::metadata(out.join("adapters.safetensors"))
                .unwrap()
                .len()
        );
        let (expected, (found, config)) = (deltas(&adapter), mlx_deltas(&out));
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "{variant}"
        );
        assert_eq!(written.tensors, 2 * found.len());
        for (module, delta) in &expected {
            let scale = largest(delta.iter().map(|number| number.abs()));
            assert!(
                scale > 0.0 && difference(&found[module], delta) <= bound * scale,
                "{variant}: {module}"
            );
        }
        assert_eq!(
            (&config["fine_tune_type"], &config["model"]),
            (&"lora".into(), &"BASE".into())
        );
        assert_eq!(
            config["num_layers"], layers,
            "{variant}: layers from the lowest with an adapter to the last"
        );
        let keys: Vec<&str> = config["lora_parameters"]["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key.as_str().unwrap())
            .collect();
        assert!(
            found
                .keys()
                .all(|module| keys.iter().any(|key| module.ends_with(&format!(".{key}")))),
            "{variant}: {keys:?}"
        );
        assert!(
            keys.iter()
                .all(|key| key.starts_with("self_attn.") || key.starts_with("mlp.")),
            "{keys:?}"
        );
    }
}

#[test]
fn a_folder_for_peft_has_the_tensors_to_the_byte() {
    for variant in [
        "adapter",
        "variants/all_linear/adapter",
        "variants/patterns/adapter",
        "variants/regex_targets/adapter",
    ] {
        let (adapter, folder) = (
            golden("archs/llama").join(variant),
            tempfile::tempdir().unwrap(),
        );
        // As other tools write them: a point, `all-linear`, and a key that nobody knows.
        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::copy(
            adapter.join("adapter_model.safetensors"),
            own.join("adapter_model.safetensors"),
        )
        .unwrap();
        let mut config = json(&adapter.join("adapter_config.json"));
        config["lora_alpha"] = serde_json::json!(8.0);
        config["of_another_tool"] = Value::Null;
        if variant.contains("all_linear") {
            config["target_modules"] = "all-linear".into();
        }
        fs::write(own.join("adapter_config.json"), config.to_string()).unwrap();

        let out = folder.path().join("out");
        fs::create_dir(&out).unwrap();
        write_peft(&own, "OWNER/NAME", &projections(), &out).unwrap();
        let bytes = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
        assert_eq!(bytes(&out), bytes(&adapter), "{variant}");
        let text = fs::read_to_string(out.join("adapter_config.json")).unwrap();
        assert!(
            text.contains("\"lora_alpha\": 8,")
                && text.contains("\"base_model_name_or_path\": \"OWNER/NAME\""),
            "{text}"
        );
        assert_eq!(deltas(&out), deltas(&adapter), "{variant}");
        assert_eq!(
            json(&out.join("adapter_config.json"))["rank_pattern"],
            config["rank_pattern"],
            "{variant}"
        );
        assert!(
            !text.contains("all-linear"),
            "{variant}: written out as PEFT does"
        );
    }
}

#[test]
fn a_run_and_its_checkpoints_are_exported() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    let same =
        |left: &str, right: &str| assert_eq!(desk.read(left), desk.read(right), "{left}, {right}");
    desk.run(&["export", "--to", "peft", "--adapter", "run", "--out", "a"])
        .says("a run", 0, &[]);
    same(
        "a/adapter_model.safetensors",
        "run/adapter/adapter_model.safetensors",
    );
    desk.run(&[
        "export",
        "run/checkpoints/step-2",
        "--to",
        "peft",
        "--out",
        "b",
    ])
    .says("a checkpoint", 0, &[]);
    same(
        "b/adapter_model.safetensors",
        "run/checkpoints/step-2/adapter/adapter_model.safetensors",
    );
    let ran = desk.run(&[
        "export", "run", "--to", "mlx", "--out", "new/c", "--for", "mlx", "--json",
    ]);
    ran.says("mlx", 0, &[]);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&result["out"], &result["tensors"]),
        (&"new/c".into(), &28.into())
    );
    assert_eq!(
        result["bytes"],
        desk.read("new/c/adapters.safetensors").len()
    );
    desk.run(&["export", "run", "--to", "gguf-adapter", "--out", "d.gguf"])
        .says("a GGUF adapter of a run", 0, &[]);

    desk.run(&["export", "run", "--to", "mlx", "--out", "a"])
        .says("an output that is there", 73, &["`a` exists"]);
    desk.run(&["export", "base", "--to", "peft", "--out", "x"])
        .says("a model", 65, &["`base` holds no adapter"]);
    desk.run(&["export", "none", "--to", "mlx", "--out", "x"])
        .says("nothing", 66, &["`none` does not exist"]);
    desk.run(&["export", "--to", "mlx", "--out", "x"])
        .says("no source", 2, &["<DIR>"]);
    let both = desk.run(&[
        "export",
        "run",
        "--adapter",
        "run",
        "--to",
        "mlx",
        "--out",
        "x",
    ]);
    both.says("two sources", 2, &["cannot be used with"]);
    desk.cut("run/adapter/adapter_model.safetensors", 0.7);
    for form in ["peft", "mlx"] {
        desk.run(&["export", "run", "--to", form, "--out", "x"])
            .says("cut", 65, &["is not a whole safetensors file"]);
    }
    assert!(!desk.path("x").exists(), "nothing half is left");
}

/// Its tensors would have names that mlx-lm looks for nowhere: the base would answer without a
/// word.
#[test]
fn adapters_of_single_experts_are_refused() {
    let desk = Desk::new();
    let (adapter, base) = (
        golden("archs/mixtral/variants/per_expert/adapter"),
        golden("archs/mixtral/model"),
    );
    let words = [
        adapter.to_str().unwrap(),
        "--base",
        base.to_str().unwrap(),
        "--to",
        "mlx",
        "--out",
        "x",
    ];
    desk.run(&[&["export"], &words[..]].concat()).says(
        "experts",
        65,
        &["is of one expert, and mlx-lm has one module for all"],
    );
    assert!(!desk.path("x").exists());
    let attention = golden("archs/mixtral/adapter");
    let words = [
        attention.to_str().unwrap(),
        "--base",
        base.to_str().unwrap(),
        "--to",
        "mlx",
        "--out",
        "x",
    ];
    desk.run(&[&["export"], &words[..]].concat())
        .says("attention", 0, &[]);
}
