//! `rankine inspect`: a model, an adapter, a run and a dataset in words and as an object; and what
//! is none of them.

mod common;
mod support;

use std::fs;

use common::{golden, json};
use rankine::files::safetensors::{Archive, write_f32};
use serde_json::{Value, json};
use support::Desk;

fn object(desk: &Desk, arguments: &[&str]) -> Value {
    let ran = desk.run(&[&["inspect"], arguments, &["--json"]].concat());
    ran.says("inspect", 0, &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

fn path(name: &str) -> String {
    golden(name).display().to_string()
}

#[test]
fn a_model_is_told_by_its_headers() {
    let desk = Desk::new();
    let told = object(&desk, &[&path("archs/qwen3_moe/model")]);
    let of = |name: &str, experts: bool| {
        let all = told["projections"].as_array().unwrap().iter();
        let found = all
            .filter(|of| of["name"] == name && of["of_experts"] == experts)
            .cloned()
            .collect::<Vec<_>>();
        found.first().cloned().unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(
        (told["kind"].as_str(), told["context"].as_u64()),
        (Some("model"), Some(64))
    );
    assert_eq!(
        of("q_proj", false),
        json!({"name": "q_proj", "in": 32, "out": 40, "count": 2, "of_experts": false})
    );
    assert_eq!(of("down_proj", true)["count"], 4);
    let weights = Archive::open(&golden("archs/qwen3_moe/model/model.safetensors")).unwrap();
    let numbers: usize = weights
        .shapes()
        .values()
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    assert_eq!(told["parameters"]["total"], numbers);
    let parts = told["parameters"]["parts"].as_object().unwrap();
    assert_eq!(
        parts
            .values()
            .map(|part| part.as_u64().unwrap())
            .sum::<u64>(),
        numbers as u64
    );
    // Two of four experts of three maps are not met.
    assert_eq!(told["parameters"]["active"], numbers - 2 * 3 * 32 * 20);
    assert_eq!(
        told["tensors"]["dtypes"],
        json!({"BF16": weights.tensors()})
    );
    let ran = desk.run(&["inspect", &path("archs/deepseek_v3/model")]);
    ran.says("deepseek", 0, &[]);
    for words in [
        "deepseek_v3: 2 layers of width 32, 4 heads of 12 on latent rows of 12",
        "2 of 4 experts of 20 beside a shared one of 20",
        "kv_a_proj_with_mqa [32, 16] x 2",
        "license",
    ] {
        assert!(
            ran.stdout.contains(words),
            "no `{words}` in\n{}",
            ran.stdout
        );
    }
}

#[test]
fn an_adapter_is_told_by_what_it_adds() {
    let desk = Desk::new();
    let folder = golden("archs/llama/adapter");
    let told = object(&desk, &[&folder.display().to_string()]);
    let (config, archive) = (
        json(&folder.join("adapter_config.json")),
        Archive::open(&folder.join("adapter_model.safetensors")).unwrap(),
    );
    let scale = config["lora_alpha"].as_f64().unwrap() / config["r"].as_f64().unwrap();
    let mut total = 0.0;
    for module in told["modules"].as_array().unwrap() {
        let key = |part: &str| {
            format!(
                "base_model.model.{}.{part}.weight",
                module["name"].as_str().unwrap()
            )
        };
        let [a, b] =
            ["lora_A", "lora_B"].map(|part| archive.read_f32(&key(part)).unwrap().unwrap());
        let rank = config["r"].as_u64().unwrap() as usize;
        let (inputs, outputs) = (a.len() / rank, b.len() / rank);
        let product = |row: usize, column: usize| -> f64 {
            (0..rank)
                .map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * inputs + column]))
                .sum()
        };
        let squares: f64 = (0..outputs * inputs)
            .map(|at| (scale * product(at / inputs, at % inputs)).powi(2))
            .sum();
        let norm = module["norm"].as_f64().unwrap();
        assert!(
            (norm - squares.sqrt()).abs() < 1e-9 * norm,
            "{module}: {}",
            squares.sqrt()
        );
        assert!(
            (1.0..=rank as f64).contains(&module["effective_rank"].as_f64().unwrap()),
            "{module}"
        );
        total += squares;
    }
    assert!((told["norm"].as_f64().unwrap() - total.sqrt()).abs() < 1e-9 * total.sqrt());
    assert_eq!(
        told["targets"],
        json!({
            "q_proj": 2, "k_proj": 2, "v_proj": 2, "o_proj": 2,
            "gate_proj": 2, "up_proj": 2, "down_proj": 2,
        })
    );

    // One that nothing was learned by, and one that is broken.
    for (number, words) in [
        (0.0, "it adds nothing"),
        (f32::NAN, "numbers that are not finite"),
    ] {
        fs::create_dir_all(desk.path("adapter")).unwrap();
        fs::copy(
            folder.join("adapter_config.json"),
            desk.path("adapter/adapter_config.json"),
        )
        .unwrap();
        let name =
            |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.{part}.weight");
        let tensors = [
            (name("lora_A"), vec![4, 32], vec![1.0; 128]),
            (name("lora_B"), vec![32, 4], vec![number; 128]),
        ];
        write_f32(
            &desk.path("adapter/adapter_model.safetensors"),
            &tensors,
            &[],
        )
        .unwrap();
        let ran = desk.run(&["inspect", "adapter"]);
        assert!(
            ran.stdout.contains(words),
            "no `{words}` in\n{}",
            ran.stdout
        );
    }
}

#[test]
fn a_run_and_a_dataset_are_told() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    let run = object(&desk, &["run"]);
    assert_eq!(
        (
            run["kind"].as_str(),
            run["steps"].as_u64(),
            run["state"].as_str()
        ),
        (Some("run"), Some(2), Some("over"))
    );
    assert_eq!(run["adapter"]["kind"], "adapter");
    assert_eq!(
        object(&desk, &["run/adapter"])["modules"]
            .as_array()
            .unwrap()
            .len(),
        14
    );

    let data = object(&desk, &["rows.parquet"]);
    assert_eq!(
        (data["rows"].as_u64(), data["format"].as_str()),
        (Some(12), Some("text"))
    );
    assert_eq!(data["columns"][0]["name"], "text");
    let counted = object(&desk, &["rows.parquet", "--base", "base"]);
    let lengths = &counted["token_lengths"];
    let number = |key: &str| lengths[key].as_u64().unwrap();
    assert_eq!(number("rows"), 12);
    assert!(
        number("min") < number("median") && number("median") < number("max"),
        "{lengths}"
    );
    assert!(
        number("min") * 12 < number("tokens") && number("tokens") < number("max") * 12,
        "{lengths}"
    );
}

#[test]
fn what_is_nothing_or_broken_is_said() {
    let desk = Desk::new();
    desk.run(&["inspect", "nowhere"]).says(
        "nowhere",
        66,
        &[
            "`nowhere` does not exist",
            "hint: give the folder of a model",
        ],
    );
    desk.run(&["inspect", "*.none"])
        .says("a glob", 66, &["no data file at `*.none`"]);
    desk.run(&["inspect", "recipe.yaml"])
        .says("a recipe", 65, &["is nothing that is known"]);
    fs::create_dir(desk.path("empty")).unwrap();
    desk.run(&["inspect", "empty"]).says(
        "an empty folder",
        65,
        &["is nothing that is known", "hint: "],
    );
    fs::remove_file(desk.path("base/model.safetensors")).unwrap();
    desk.run(&["inspect", "base"])
        .says("no weights", 65, &["has no model.safetensors"]);
    desk.write("base/model.safetensors", b"PK\x03\x04");
    desk.run(&["inspect", "base"]).says(
        "a pickle",
        65,
        &["base/model.safetensors", "is not a whole safetensors file"],
    );
    desk.write("rows.parquet", b"PAR1");
    desk.run(&["inspect", "rows.parquet"])
        .says("a broken dataset", 65, &["rows.parquet"]);
}
