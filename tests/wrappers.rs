//! Decoders inside larger models: the config.json that is published, with only what differs from
//! the class's defaults, gives the decoder that transformers makes of it, and an adapter has the
//! names that PEFT gives it there. `tests/golden/make_wrappers.py` made the numbers.

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{committed, json, load, loss_and_mark};
use rankine::adapter::peft;
use rankine::files::safetensors::{Archive, Named, write_f32};
use rankine::model::{DecoderSpec, Folder};
use rankine::nn::attention::Span;
use serde_json::{Value, json};
use support::Desk;

/// Both sides compute in f32.
const TOLERANCE: [f64; 2] = [2e-5, 2e-4];

/// Names of a version of transformers: of the decoder and of the head.
type Stored = [&'static str; 2];
const NOW: Stored = ["", "lm_head."];
const BEFORE: Stored = ["language_model.model.", "language_model.lm_head."];
const BARE: Stored = ["model.", "lm_head."];

fn cases() -> serde_json::Map<String, Value> {
    json(&committed("configs/wrappers.json"))
        .as_object()
        .unwrap()
        .clone()
}

/// Names that published files of a wrapper have.
fn versions(wrapper: &str) -> Vec<Stored> {
    match wrapper {
        "qwen2_vl" | "qwen2_5_vl" => vec![NOW, BARE],
        "idefics3" | "smolvlm" => vec![NOW],
        _ => vec![NOW, BEFORE],
    }
}

/// Tensors of a family's folder under other names.
fn tensors(folder: &Path, renamed: impl Fn(&str) -> String) -> Vec<Named> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let of_file = |path: PathBuf| {
        let archive = Archive::open(&path).unwrap();
        let read = |(name, shape): (String, Vec<usize>)| {
            (
                renamed(&name),
                shape,
                archive.read_f32(&name).unwrap().unwrap(),
            )
        };
        archive.shapes().into_iter().map(read).collect::<Vec<_>>()
    };
    files.flat_map(of_file).collect()
}

/// A base of the desk: the wrapper's config.json, the family's weights under its names, and a tower
/// beside them.
fn wrap(desk: &Desk, case: &Value, [stem, head]: Stored) {
    let folder = committed(&format!("archs/{}/model", case["family"].as_str().unwrap()));
    let stem = if stem.is_empty() {
        case["stem"].as_str().unwrap()
    } else {
        stem
    };
    let mut tensors = tensors(&folder, |name| {
        name.replacen("model.", stem, 1).replace("lm_head.", head)
    });
    tensors.push((
        "vision_tower.patch.weight".to_owned(),
        vec![2, 2],
        vec![1.0; 4],
    ));
    for file in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        let name = file.file_name().to_string_lossy().into_owned();
        if !name.contains("safetensors") {
            fs::copy(file.path(), desk.path("base").join(name)).unwrap();
        }
    }
    write_f32(&desk.path("base/model.safetensors"), &tensors, &[]).unwrap();
    fs::write(desk.path("base/config.json"), case["config"].to_string()).unwrap();
}

/// The family's adapter under the names that PEFT gives it on the wrapper.
fn adapt(desk: &Desk, case: &Value) {
    let folder = committed(&format!(
        "archs/{}/adapter",
        case["family"].as_str().unwrap()
    ));
    let stem = format!("base_model.model.{}", case["stem"].as_str().unwrap());
    let tensors = tensors(&folder, |name| {
        name.replacen("base_model.model.model.", &stem, 1)
    });
    fs::create_dir(desk.path("adapter")).unwrap();
    write_f32(
        &desk.path("adapter/adapter_model.safetensors"),
        &tensors,
        &[],
    )
    .unwrap();
    fs::copy(
        folder.join("adapter_config.json"),
        desk.path("adapter/adapter_config.json"),
    )
    .unwrap();
}

fn near(what: &str, ours: [f64; 2], theirs: &Value) {
    for ((ours, theirs), bound) in ours
        .into_iter()
        .zip(theirs.as_array().unwrap())
        .zip(TOLERANCE)
    {
        let theirs = theirs.as_f64().unwrap();
        assert!(
            (ours - theirs).abs() <= bound,
            "{what}: {ours}, transformers {theirs}"
        );
    }
}

#[test]
fn a_decoder_in_a_wrapper_computes_as_there_without_and_with_an_adapter() {
    for (name, case) in cases() {
        for stored in versions(case["config"]["model_type"].as_str().unwrap()) {
            let desk = Desk::new();
            wrap(&desk, &case, stored);
            let mut decoder = load(&desk.path("base"));
            near(&name, loss_and_mark(&decoder), &case["base"]);
            adapt(&desk, &case);
            common::attach_peft(&mut decoder, &desk.path("adapter"));
            near(&name, loss_and_mark(&decoder), &case["adapted"]);
        }
    }
}

#[test]
fn an_adapter_that_is_trained_on_a_wrapper_has_the_names_that_peft_gives_it() {
    for (name, case) in cases() {
        let desk = Desk::new();
        wrap(
            &desk,
            &case,
            versions(case["config"]["model_type"].as_str().unwrap())
                .pop()
                .unwrap(),
        );
        desk.run(&["train", "recipe.yaml"]).says(&name, 0, &[]);
        let keys: Vec<String> = peft::open(&desk.path("run/adapter"))
            .unwrap()
            .shapes()
            .into_keys()
            .collect();
        let expected = case["adapter_keys"].as_array().unwrap();
        assert_eq!(
            json!([keys.first(), keys.last()]),
            json!(expected),
            "{name}"
        );
        assert_eq!(json!(keys.len()), case["adapter_count"], "{name}");
        // What is merged keeps the names and the tower of its base.
        desk.run(&[
            "merge",
            "--base",
            "base",
            "--adapter",
            "run/adapter",
            "--out",
            "merged",
        ])
        .says(&name, 0, &[]);
        let shapes = |folder: &str| {
            Archive::open(&desk.path(folder).join("model.safetensors"))
                .unwrap()
                .shapes()
        };
        assert_eq!(shapes("merged"), shapes("base"), "{name}");
    }
}

/// The configs that makers publish: what transformers counts and fills.
#[test]
fn published_configs_are_the_models_that_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for (name, case) in json(&committed("configs/published.json"))
        .as_object()
        .unwrap()
    {
        fs::write(&path, case["config"].to_string()).unwrap();
        let spec = DecoderSpec::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(json!(spec.parameters()), case["parameters"], "{name}");
        let values = case["values"].as_object().unwrap();
        let grouped = spec
            .layers
            .iter()
            .find_map(|layer| layer.mixer.grouped())
            .unwrap();
        let windows = spec
            .layers
            .iter()
            .filter_map(|layer| match layer.mixer.span() {
                Span::Sliding { window } => Some(window),
                _ => None,
            });
        let windows: Vec<usize> = windows.collect();
        let told: BTreeMap<&str, Value> = [
            ("vocab_size", json!(spec.vocabulary)),
            ("hidden_size", json!(spec.width)),
            ("num_hidden_layers", json!(spec.layers.len())),
            ("num_attention_heads", json!(grouped.heads)),
            ("num_key_value_heads", json!(grouped.kv_heads)),
            ("rms_norm_eps", json!(spec.norm_epsilon)),
            ("max_position_embeddings", json!(spec.context)),
            ("tied", json!(spec.tied_head)),
            ("windows", json!(windows.len())),
        ]
        .into();
        for (key, told) in told {
            assert_eq!(told, values[key], "{name}: {key}");
        }
        if !windows.is_empty() {
            assert!(
                windows
                    .iter()
                    .all(|window| json!(window) == values["sliding_window"]),
                "{name}"
            );
        }
        let scale = values["query_pre_attn_scalar"]
            .as_f64()
            .unwrap_or(grouped.head_dim as f64)
            .powf(-0.5);
        assert!((grouped.score_scale - scale).abs() < 1e-12, "{name}");
        if let Some(head_dim) = values["head_dim"].as_u64() {
            assert_eq!(grouped.head_dim as u64, head_dim, "{name}");
        }
    }
}

/// What each needs is told from its config alone.
#[test]
fn published_configs_come_to_a_plan() {
    let desk = Desk::new();
    let published = json(&committed("configs/published.json"));
    let published = published.as_object().unwrap();
    let names: Vec<String> = published
        .keys()
        .map(|name| format!("{name}.json"))
        .collect();
    for (name, case) in names.iter().zip(published.values()) {
        desk.write(name, case["config"].to_string());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ran = desk.run(&[&["plan", "--fits"], &names[..], &["--json"]].concat());
    ran.says("plan --fits", 0, &[]);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let models = told["models"].as_array().unwrap();
    assert_eq!(models.len(), names.len());
    for (model, case) in models.iter().zip(published.values()) {
        assert_eq!(model["parameters"], case["parameters"], "{model}");
        let bytes = |base: &str| model["peak_bytes"][base].as_u64().unwrap();
        assert!(bytes("qlora") < bytes("bfloat16"), "{model}");
        assert!(bytes("bfloat16") < bytes("float32"), "{model}");
    }
}

/// The folder that Google publishes for Gemma 3 4B says eight of the keys that a decoder needs.
#[test]
fn what_a_published_wrapper_leaves_out_is_filled_and_told() {
    let desk = Desk::new();
    let published = json(&committed("configs/published.json"))["gemma-3-4b"].clone();
    desk.write("gemma.json", published["config"].to_string());
    let ran = desk.run(&["plan", "--fits", "gemma.json", "--json"]);
    ran.says("plan --fits", 0, &[]);
    let ran = desk.run(&["plan", "--fits", "gemma.json"]);
    ran.says("plan --fits", 0, &[]);
    assert!(
        ran.stdout.contains("3,880,263,168 parameters"),
        "{}",
        ran.stdout
    );

    let case = cases()["gemma3"].clone();
    wrap(&desk, &case, BEFORE);
    let filled = Folder::open(&desk.path("base")).unwrap().filled;
    let of = |key: &str| {
        filled
            .iter()
            .find(|(filled, _)| filled == key)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(
        (of("rms_norm_eps"), of("hidden_size")),
        (Some(json!(1e-6)), None)
    );
    let ran = desk.run(&["inspect", "base"]);
    ran.says("inspect", 0, &[]);
    assert!(ran.stdout.contains("filled by default"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("rms_norm_eps 1e-6") || ran.stdout.contains("rms_norm_eps 1e-06"),
        "{}",
        ran.stdout
    );
}

/// Where config.json does not say it and the files have a head of their own, it is one, as in
/// transformers; said, it is a fault.
#[test]
fn a_head_that_differs_is_one_unless_the_config_ties_it() {
    let desk = Desk::new();
    let mut case = cases()["mistral3"].clone();
    wrap(&desk, &case, BEFORE);
    case["config"]
        .as_object_mut()
        .unwrap()
        .remove("tie_word_embeddings");
    case["config"]["text_config"]
        .as_object_mut()
        .unwrap()
        .remove("tie_word_embeddings");
    desk.write("base/config.json", case["config"].to_string());
    assert!(
        DecoderSpec::read(&desk.path("base/config.json"))
            .unwrap()
            .tied_head,
        "a Mistral 3 is tied by default"
    );
    near(
        "untied",
        loss_and_mark(&load(&desk.path("base"))),
        &case["base"],
    );
    case["config"]["tie_word_embeddings"] = json!(true);
    desk.write("base/config.json", case["config"].to_string());
    desk.run(&["inspect", "base"])
        .says("tied", 65, &["differs from", "config.json ties them"]);
}

#[test]
fn a_wrapper_that_is_not_known_is_refused_with_those_that_are() {
    let desk = Desk::new();
    let mut case = cases()["llava_llama"].clone();
    wrap(&desk, &case, BEFORE);
    for (change, said) in [
        (
            json!({"model_type": "paligemma"}),
            "`model_type` is `paligemma`, known are `bert`, `cohere2`",
        ),
        (
            json!({"model_type": "paligemma"}),
            "of models with a `text_config` `deepseek_vl`",
        ),
        (
            json!({"text_config": {"model_type": "opt"}}),
            "`model_type` is `llava`, and that of its `text_config` `opt`, known are",
        ),
        (
            json!({"text_config": 3}),
            "`text_config` is `3`, expected an object",
        ),
        (
            json!({"text_config": {"model_type": "mistral", "layer_types": ["full_attention"]}}),
            "`layer_types` of `text_config` is set",
        ),
        (
            json!({"text_config": {"hidden_act": null}}),
            "`hidden_act` is `null`, expected text",
        ),
    ] {
        let config = case["config"].as_object_mut().unwrap();
        let before = config.clone();
        config.extend(change.as_object().unwrap().clone());
        desk.write("base/config.json", json!(config).to_string());
        *config = before;
        desk.run(&["inspect", "base"]).says(said, 65, &[said]);
    }
}
