//! GGUF files as bases: the same decoder as from safetensors files, trained, resumed, merged and
//! exported; and files that lie.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::*;
use rankine::data::TokenRow;
use rankine::export::gguf::{GgmlType, GgufError, write_gguf_model};
use rankine::fault::Explain;
use rankine::model::{Folder, base_folder_in};
use rankine::terms::ModelDtype;
use support::Desk;

/// Families that are exported, or a variant of them is.
const EXPORTED: [&str; 32] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "lfm2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "olmo2",
    "smollm3",
    "phi3",
    "phi3_longrope",
    "mixtral",
    "qwen3_moe",
    "ministral3",
    "olmo3",
    "granite4",
    "granite4_h",
    "cohere2",
    "glm4",
    "seed_oss",
    "hunyuan_v1_dense",
    "ernie4_5",
    "qwen2_moe",
    "granitemoe",
    "starcoder2",
    "phi",
    "nemotron",
    "stablelm",
    "gemma4_dense",
    "gemma4_small",
];

fn exported(model: &Path, file: &Path, kind: GgmlType) -> Result<(), GgufError> {
    write_gguf_model(model, file, kind, &AtomicBool::new(false), &|_| {}).map(drop)
}

/// Families with a window that llama.cpp does not know: only rows within it are equal.
const WITHOUT_WINDOWS: [&str; 2] = ["mistral", "starcoder2"];

/// Logits of two rows, one of this many tokens.
fn logits_of(folder: &Path, longest: u32) -> Vec<f32> {
    let decoder = Folder::open(folder)
        .unwrap_or_else(|error| panic!("{:?}", error.faults()))
        .load(ModelDtype::Float32, &burn::tensor::Device::flex(), &|_| {})
        .unwrap_or_else(|error| panic!("{:?}", error.faults()));
    let row = |first: u32, length: u32| {
        let ids: Vec<u32> = (0..length)
            .map(|place| 4 + (first + 7 * place) % 280)
            .collect();
        let trained = (0..ids.len()).map(|place| place > 0).collect();
        TokenRow { ids, trained }
    };
    logits(&decoder, &batch(vec![row(3, longest), row(11, 4)]))
}

#[test]
fn a_file_gives_the_decoder_that_it_was_written_from() {
    let mut differences = Vec::new();
    for family in FAMILIES {
        let (case, _folder) = exportable(&committed(&format!("archs/{family}")), family);
        let (model, desk) = (case.join("model"), tempfile::tempdir().unwrap());
        let file = desk.path().join("model.gguf");
        if let Err(error) = exported(&model, &file, GgmlType::F32) {
            println!("{family}: {error}");
            continue;
        }
        let folder = base_folder_in(&file, &desk.path().join("cache"))
            .unwrap_or_else(|error| panic!("{family}: {:?}", error.faults()));
        let longest = if WITHOUT_WINDOWS.contains(&family) {
            5
        } else {
            24
        };
        let (ours, theirs) = (logits_of(&folder, longest), logits_of(&model, longest));
        let difference = difference(&ours, &theirs);
        println!("{family}: logits differ by {difference:e}");
        differences.push((family, difference));
    }
    let large: Vec<_> = differences
        .iter()
        .filter(|(_, difference)| difference.is_nan() || *difference >= 1e-5)
        .collect();
    assert!(large.is_empty(), "{large:?}");
    let found: Vec<_> = differences.iter().map(|(family, _)| *family).collect();
    assert_eq!(found, EXPORTED);
}

/// Files in 16 bits and in blocks give what a folder of the same numbers gives.
#[test]
fn blocks_are_read_as_the_numbers_that_they_hold() {
    for family in ["llama", "mixtral", "phi3", "granitemoe", "gemma2"] {
        for kind in [GgmlType::F16, GgmlType::Bf16, GgmlType::Q8_0] {
            let model = committed(&format!("archs/{family}/model"));
            let desk = tempfile::tempdir().unwrap();
            let (file, cache) = (desk.path().join("m.gguf"), desk.path().join("cache"));
            exported(&model, &file, kind).unwrap();
            let folder = base_folder_in(&file, &cache).unwrap();
            let unpacked = desk.path().join("unpacked");
            fs::create_dir(&unpacked).unwrap();
            rankine::export::repack(
                &folder,
                rankine::model::Target::Dense(Some(rankine::files::Float::F32)),
                &unpacked,
                &AtomicBool::new(false),
                &|_| {},
            )
            .unwrap();
            let (ours, theirs) = (logits_of(&folder, 24), logits_of(&unpacked, 24));
            let difference = difference(&ours, &theirs);
            println!("{family} {kind:?}: {difference:e}");
            assert!(difference < 1e-5, "{family} {kind:?}: {difference:e}");
        }
    }
}

/// A desk whose recipe trains on `base.gguf`.
fn desk(kind: &str) -> Desk {
    let desk = Desk::new();
    desk.run(&[
        "export",
        "base",
        "--to",
        "gguf",
        "--dtype",
        kind,
        "--out",
        "base.gguf",
    ])
    .says("export", 0, &[]);
    fs::remove_dir_all(desk.path("base")).unwrap();
    desk.edit(
        "recipe.yaml",
        "base_model: base\n",
        "base_model: base.gguf\n",
    );
    desk
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn every_verb_takes_a_file() {
    for kind in ["f16", "q8_0"] {
        let desk = desk(kind);
        let ran = desk.run(&["inspect", "base.gguf"]);
        ran.says("inspect", 0, &[]);
        assert!(
            ran.stdout.contains("base.gguf") && ran.stdout.contains("llama"),
            "{ran:?}"
        );
        desk.run(&["check", "recipe.yaml"]).says("check", 0, &[]);
        desk.run(&["plan", "recipe.yaml"]).says("plan", 0, &[]);
        desk.run(&["preview", "recipe.yaml"])
            .says("preview", 0, &[]);
        let train = [
            "train",
            "recipe.yaml",
            "training.max_steps=6",
            "output.save_steps=2",
            "output.save_total_limit=9",
        ];
        desk.run(&train).says("train", 0, &[]);
        let lock = text(desk.path("run/recipe.lock.yaml"));
        assert!(
            lock.contains("base.gguf") && !lock.contains("config.json"),
            "{lock}"
        );
        let config = json(&desk.path("run/adapter/adapter_config.json"));
        assert_eq!(config["base_model_name_or_path"], "base.gguf");
        let card = text(desk.path("run/README.md"));
        assert!(
            card.contains("base.gguf") && !card.contains("cache"),
            "{card}"
        );

        let adapter = || desk.read("run/adapter/adapter_model.safetensors");
        let alone = adapter();
        for gone in ["adapter", "checkpoints/step-6", "checkpoints/step-4"] {
            fs::remove_dir_all(desk.path("run").join(gone)).unwrap();
        }
        for gone in ["README.md", "result.json"] {
            let _ = fs::remove_file(desk.path("run").join(gone));
        }
        desk.run(&["resume", "run"])
            .says("resume", 0, &["going on after step"]);
        assert!(adapter() == alone, "{kind}");

        let ask = [
            "generate",
            "--adapter",
            "run",
            "--max-tokens",
            "4",
            "--prompt",
            "the term",
        ];
        desk.run(&ask).says("generate", 0, &[]);
        let export = [
            "export",
            "run",
            "--to",
            "gguf-adapter",
            "--out",
            "adapter.gguf",
        ];
        desk.run(&export).says("adapter", 0, &[]);
        let merge = [
            "merge",
            "--adapter",
            "run",
            "--out",
            "merged",
            "--uncompared",
        ];
        desk.run(&merge).says("merge", 0, &[]);
        let base = desk.run(&[
            "generate",
            "--base",
            "merged/model.gguf",
            "--max-tokens",
            "4",
            "--prompt",
            "the term",
        ]);
        base.says("merged", 0, &[]);
        desk.run(&["export", "base.gguf", "--to", "gguf", "--out", "again.gguf"])
            .says("again", 65, &["is a GGUF file already"]);
    }
}

#[test]
fn another_quantization_is_refused_on_blocks_and_done_on_numbers() {
    let blocks = desk("q8_0");
    let asked = [
        "train",
        "recipe.yaml",
        "adapter.method=qlora",
        "adapter.quantization=nf4",
    ];
    blocks
        .run(&asked)
        .says("blocks", 65, &["the base is stored in Q8_0"]);
    let numbers = desk("f16");
    numbers.run(&asked).says("numbers", 0, &[]);
}

#[test]
fn a_file_that_is_damaged_or_of_an_unknown_model_is_refused() {
    let desk = desk("f32");
    desk.cut("base.gguf", 0.9);
    desk.run(&["plan", "recipe.yaml"]).says(
        "cut",
        65,
        &["base.gguf` is not a whole GGUF file", "bytes of data"],
    );
    desk.write("base.gguf", "GGUF");
    desk.run(&["plan", "recipe.yaml"])
        .says("short", 65, &["base.gguf` is not a whole GGUF file"]);
    desk.run(&["inspect", "base.gguf"]).says(
        "inspect",
        65,
        &["base.gguf` is not a whole GGUF file"],
    );
}
