//! Which modules get an adapter, as PEFT selects them; and transformers' schedules.

mod common;

use common::*;
use rankine::adapter::{LoraConfig, Targets};
use rankine::model::Folder;
use rankine::terms::Modules;
use rankine::train::{RateCourse, Schedule};
use serde_json::Value;

fn modules(value: &Value) -> Option<Modules> {
    match value {
        Value::String(word) if word == "all-linear" => Some(Modules::AllLinear),
        Value::String(pattern) => Some(Modules::Regex(pattern.clone())),
        Value::Array(names) => Some(Modules::Names(
            names
                .iter()
                .map(|name| name.as_str().unwrap().to_owned())
                .collect(),
        )),
        _ => None,
    }
}

#[test]
fn targets_are_those_that_peft_selects() {
    let mut compared = 0;
    for case in json(&golden("archs/llama/variants/target_selection.json"))
        .as_array()
        .unwrap()
    {
        let (family, spec) = (case["arch"].as_str().unwrap(), &case["spec"]);
        // `target_modules: null` is PEFT's own table of defaults; a recipe always has a value.
        let Some(chosen) = modules(&spec["target_modules"]).filter(|_| FAMILIES.contains(&family))
        else {
            continue;
        };
        let layers = &spec["layers_to_transform"];
        let targets = Targets {
            modules: chosen,
            exclude: modules(&spec["exclude_modules"]),
            layers: layers
                .as_u64()
                .map(|layer| vec![layer as usize])
                .or(layers.as_array().map(|layers| {
                    layers
                        .iter()
                        .map(|layer| layer.as_u64().unwrap() as usize)
                        .collect()
                })),
            layers_pattern: spec["layers_pattern"]
                .as_str()
                .map(str::to_owned)
                .into_iter()
                .collect(),
        };
        let config = LoraConfig {
            targets,
            ..lora(1, 1.0)
        };
        let projections = Folder::open(&golden(&format!("archs/{family}/model")))
            .unwrap()
            .spec
            .projections();
        let names: Vec<String> = projections.into_iter().map(|linear| linear.name).collect();
        // PEFT goes by the order in which a family's code makes its modules.
        let theirs = case["modules"].as_array().into_iter().flatten();
        let mut theirs: Vec<&str> = theirs.map(|module| module.as_str().unwrap()).collect();
        // Names that a family has not are an error to us, and to PEFT where it finds nothing at
        // all.
        let Ok(ours) = config.resolve(&names) else {
            assert!(theirs.is_empty(), "{family}: {spec}: {theirs:?}");
            continue;
        };
        // PEFT wraps the parameters of all experts; we name the modules of each. Since transformers
        // 5 its `all-linear` means all experts and the router, and leaves dense and shared
        // feed-forwards out; here experts train where they are named, and the router is frozen.
        if names.iter().any(|name| name.contains(".experts."))
            && spec["target_modules"] == "all-linear"
        {
            assert!(
                ours.iter()
                    .all(|target| !target.module.contains(".experts.")
                        && target.module.rsplit('.').next() != Some("gate")),
                "{family}"
            );
            continue;
        }
        let module = |name: String| match name.split_once(".experts.") {
            Some((before, _)) => format!("{}.mlp.experts", before.rsplit_once('.').unwrap().0),
            None => name,
        };
        let ours: std::collections::BTreeSet<String> = ours
            .into_iter()
            .map(|target| module(target.module))
            .collect();
        // Of these families PEFT 0.21.2 has no entry in its own table of experts' names: only the shared
        // expert gets an adapter there.
        let has_no_entry = ["qwen2_moe", "qwen3_5_moe"].contains(&family);
        if has_no_entry && spec.to_string().contains("down_proj") {
            continue;
        }
        // PEFT turns names of experts' modules into parameters, for which it knows neither layers
        // nor exclusions.
        if !spec["layers_to_transform"].is_null() || !spec["exclude_modules"].is_null() {
            theirs.retain(|module| !module.ends_with(".experts") || ours.contains(*module));
        }
        let ours: Vec<String> = ours.into_iter().collect();
        theirs.sort_unstable();
        assert_eq!(ours, theirs, "{family}: {spec}");
        compared += 1;
    }
    println!("{compared} selections of {} families", FAMILIES.len());
    assert!(compared >= 6 * FAMILIES.len(), "{compared}");
}

#[test]
fn names_and_patterns_that_match_nothing_are_named() {
    let names = [
        "model.layers.0.self_attn.q_proj".to_owned(),
        "model.layers.0.mlp.down_proj".to_owned(),
    ];
    let base = lora(4, 8.0);
    let with = |modules| LoraConfig {
        targets: Targets {
            modules,
            ..Targets::all_linear()
        },
        ..base.clone()
    };
    let cases = [
        with(Modules::Names(vec!["q_proj".into(), "w_pack".into()])),
        with(Modules::Regex("q_proj".into())),
        with(Modules::Regex("(".into())),
        LoraConfig {
            rank_pattern: vec![("o_proj".into(), 2)],
            ..base.clone()
        },
        LoraConfig {
            alpha_pattern: vec![("layers.1.mlp.down_proj".into(), 2.0)],
            ..base.clone()
        },
    ];
    let said: Vec<String> = cases
        .iter()
        .map(|config| {
            config
                .check_names(&names)
                .and_then(|()| config.resolve(&names))
                .unwrap_err()
                .to_string()
                .lines()
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    insta::assert_debug_snapshot!(said);
}

#[test]
fn schedules_are_those_of_transformers() {
    let golden = json(&golden("schedules.json"));
    let total_steps = golden["total_steps"].as_u64().unwrap();
    let cosine = |min| RateCourse::Cosine {
        num_cycles: 0.5,
        min,
    };
    let cases = [
        ("constant", RateCourse::Constant, 0),
        ("constant_with_warmup", RateCourse::Constant, 5),
        ("linear", RateCourse::Linear, 5),
        ("cosine", cosine(0.0), 5),
        ("cosine_with_min_lr", cosine(0.1), 5),
    ];
    for (name, course, warmup_steps) in cases {
        let schedule = Schedule {
            peak: 1.0,
            course,
            warmup_steps,
            total_steps,
        };
        for (step, expected) in golden["schedules"][name]["lr"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let (ours, theirs) = (schedule.lr_at(step as u64), expected.as_f64().unwrap());
            assert!(
                (ours - theirs).abs() < 1e-12,
                "{name}, step {step}: {ours}, expected {theirs}"
            );
        }
    }
}
