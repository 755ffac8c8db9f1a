//! What lies beside a model's weights goes along or is told: links that lead nowhere, what another
//! tool left in config.json.
#![cfg(unix)]

mod common;
mod support;

use std::fs;
use std::os::unix::fs::symlink;

use common::golden;
use serde_json::{Value, json};
use support::Desk;

/// A desk whose base is made of links, as in a Hub's cache, with an adapter beside it.
fn linked() -> Desk {
    let desk = Desk::new();
    fs::rename(desk.path("base"), desk.path("blobs")).unwrap();
    fs::create_dir(desk.path("base")).unwrap();
    for file in fs::read_dir(desk.path("blobs"))
        .unwrap()
        .map(Result::unwrap)
    {
        symlink(file.path(), desk.path("base").join(file.file_name())).unwrap();
    }
    copy_adapter(&desk);
    desk
}

fn copy_adapter(desk: &Desk) {
    fs::create_dir(desk.path("adapter")).unwrap();
    for file in fs::read_dir(golden("archs/llama/adapter"))
        .unwrap()
        .map(Result::unwrap)
    {
        fs::copy(file.path(), desk.path("adapter").join(file.file_name())).unwrap();
    }
}

/// Lets a file of the base be a link that leads nowhere.
fn lose(desk: &Desk, name: &str) {
    let path = desk.path("base").join(name);
    if path.symlink_metadata().is_ok() {
        fs::remove_file(&path).unwrap();
    }
    symlink("../blobs/cleaned", path).unwrap();
}

const MERGE: [&str; 7] = [
    "merge",
    "--adapter",
    "adapter",
    "--base",
    "base",
    "--out",
    "merged",
];

#[test]
fn links_that_lead_somewhere_are_files() {
    let desk = linked();
    desk.run(&MERGE).says("merge", 0, &[]);
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        assert_eq!(
            desk.read(&format!("merged/{name}")),
            desk.read(&format!("blobs/{name}")),
            "{name}"
        );
        assert!(!desk.path("merged").join(name).is_symlink(), "{name}");
    }
    desk.run(&[
        "generate",
        "--base",
        "base",
        "--chat",
        "hi",
        "--max-tokens",
        "2",
    ])
    .says("generate", 0, &[]);
}

#[test]
fn no_model_is_made_without_what_its_base_names() {
    let names = [
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.json",
        "LICENSE.txt",
        "config.json",
        "model.safetensors",
    ];
    for name in names {
        let desk = linked();
        lose(&desk, name);
        let said =
            format!("base/{name}`: it is a link to `../blobs/cleaned`, which does not exist");
        let ran = desk.run(&MERGE);
        ran.says(
            name,
            74,
            &[
                &said,
                "hint: restore the file that the link leads to",
                "rankine pull ID",
            ],
        );
        assert!(!desk.path("merged").exists(), "{name}");
    }
    // A template among further ones, and their folder.
    let desk = linked();
    fs::create_dir(desk.path("base/additional_chat_templates")).unwrap();
    symlink(
        "nowhere",
        desk.path("base/additional_chat_templates/tools.jinja"),
    )
    .unwrap();
    desk.run(&MERGE).says(
        "a further template",
        74,
        &["base/additional_chat_templates/tools.jinja`: it is a link to `nowhere`"],
    );
    fs::remove_dir_all(desk.path("base/additional_chat_templates")).unwrap();
    symlink("nowhere", desk.path("base/additional_chat_templates")).unwrap();
    desk.run(&MERGE).says(
        "further templates",
        74,
        &["base/additional_chat_templates`: it is a link to `nowhere`"],
    );
    // A shard of an index, and a folder in the place of a file.
    let desk = linked();
    fs::remove_file(desk.path("base/model.safetensors")).unwrap();
    desk.write(
        "base/model.safetensors.index.json",
        r#"{"weight_map": {"a": "model-1.safetensors"}}"#,
    );
    lose(&desk, "model-1.safetensors");
    desk.run(&MERGE).says(
        "a shard",
        74,
        &["base/model-1.safetensors`: it is a link to `../blobs/cleaned`"],
    );
    let desk = linked();
    fs::create_dir(desk.path("base/merges.txt")).unwrap();
    desk.run(&MERGE)
        .says("a folder", 74, &["base/merges.txt`: it is not a file"]);
    // Licenses may lie in a folder of their own.
    let desk = linked();
    fs::create_dir(desk.path("base/LICENSES")).unwrap();
    desk.run(&MERGE).says("a folder of licenses", 0, &[]);
}

#[test]
fn every_verb_names_a_file_that_cannot_be_read() {
    let verbs: [(&str, &[&str], i32); 6] = [
        (
            "generate",
            &["generate", "--base", "base", "--chat", "hi"],
            74,
        ),
        (
            "export",
            &["export", "base", "--to", "gguf", "--out", "x.gguf"],
            74,
        ),
        (
            "export of an adapter",
            &[
                "export", "adapter", "--base", "base", "--to", "gguf", "--out", "x.gguf",
            ],
            74,
        ),
        ("train", &["train", "recipe.yaml"], 65),
        ("check", &["check", "recipe.yaml"], 65),
        ("inspect", &["inspect", "base"], 74),
    ];
    for (what, verb, exit) in verbs {
        let desk = linked();
        lose(&desk, "tokenizer_config.json");
        desk.run(verb).says(
            what,
            exit,
            &["tokenizer_config.json`: it is a link to `../blobs/cleaned`, which does not exist"],
        );
        let desk = linked();
        lose(&desk, "model.safetensors");
        desk.run(verb).says(
            what,
            exit,
            &["model.safetensors`: it is a link to `../blobs/cleaned`, which does not exist"],
        );
    }
    // What every weight of which is trained takes along too.
    let desk = linked();
    lose(&desk, "vocab.txt");
    let full = desk.run(&["train", "recipe.yaml", "adapter.method=full", "adapter.r="]);
    assert_eq!(full.exit, 74, "{full:?}");
    assert!(
        full.stderr.contains("vocab.txt`: it is a link to"),
        "{full:?}"
    );
}

/// The base's config.json with a leftover of another tool.
fn leftover(desk: &Desk, method: &Value) {
    let mut config: Value = serde_json::from_str(&desk.read_text("base/config.json")).unwrap();
    config["quantization_config"] = method.clone();
    desk.write(
        "base/config.json",
        serde_json::to_string_pretty(&config).unwrap() + "\n",
    );
}

#[test]
fn a_leftover_of_quantization_is_dropped_and_told() {
    let stale = [
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}),
        json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
        json!({"load_in_4bit": true}),
        json!({"quant_method": "mxfp4"}),
        json!({"quant_method": "gptq", "bits": 4}),
        json!({"bits": 4}),
    ];
    for method in stale {
        let desk = Desk::new();
        copy_adapter(&desk);
        let plain: Value = serde_json::from_str(&desk.read_text("base/config.json")).unwrap();
        leftover(&desk, &method);
        let unnamed = if method.get("bits").is_some() {
            "without a `quant_method`"
        } else {
            "bitsandbytes"
        };
        let name = method["quant_method"].as_str().unwrap_or(unnamed);
        let said = format!("has a `quantization_config` ({name}), and");
        desk.run(&MERGE).says(
            "merge",
            0,
            &[&format!(
                "note: config.json of the base {said} its weights are plain numbers: the \
                merged model gets none"
            )],
        );
        let merged: Value = serde_json::from_str(&desk.read_text("merged/config.json")).unwrap();
        assert_eq!(merged, plain);
        // The keys stay in their order.
        let keys = |config: &Value| {
            config
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&merged), keys(&plain));
        let ignored = format!(
            "config.json {said} the weights are plain numbers: it is a leftover, and is ignored"
        );
        let ran = desk.run(&["inspect", "base"]);
        ran.says("inspect", 0, &[]);
        assert!(ran.stdout.contains(&ignored), "{}", ran.stdout);
        let ran: Value =
            serde_json::from_str(&desk.run(&["inspect", "base", "--json"]).stdout).unwrap();
        assert_eq!(ran["leftover_quantization"], name);
        let noted = format!("note: {ignored}");
        desk.run(&["train", "recipe.yaml"])
            .says("train", 0, &[&noted]);
        desk.run(&["check", "recipe.yaml"])
            .says("check", 0, &[&noted]);
        desk.run(&["eval", "run", "--data", "rows.parquet"])
            .says("eval", 0, &[&noted]);
        desk.run(&[
            "generate",
            "--base",
            "base",
            "--prompt",
            "a",
            "--max-tokens",
            "1",
        ])
        .says("generate", 0, &[&noted]);
        desk.run(&[
            "train",
            "recipe.yaml",
            "adapter.method=full",
            "adapter.r=",
            "output_dir=full",
        ])
        .says("full", 0, &[&noted]);
        let full: Value = serde_json::from_str(&desk.read_text("full/model/config.json")).unwrap();
        assert!(full.get("quantization_config").is_none(), "{full}");
    }
}

#[test]
fn a_base_packed_by_others_is_refused_by_name() {
    let desk = Desk::new();
    leftover(&desk, &json!({"quant_method": "gptq", "bits": 4}));
    let header = concat!(
        r#"{"model.layers.0.self_attn.q_proj.qweight":"#,
        r#"{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#
    );
    let file = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &[0; 4],
    ]
    .concat();
    desk.write("base/model.safetensors", file);
    let said = "`quant_method` of `quantization_config` is `gptq`, known are `bitsandbytes`, \
        `mxfp4`";
    desk.run(&["check", "recipe.yaml"])
        .says("gptq", 65, &[said]);
}

#[test]
fn a_base_that_is_packed_says_nothing_of_leftovers() {
    let desk = Desk::new();
    copy_adapter(&desk);
    desk.run(&["quantize", "base", "--out", "packed"])
        .says("quantize", 0, &[]);
    let ran = desk.run(&["inspect", "packed"]);
    assert!(!ran.stdout.contains("leftover"), "{}", ran.stdout);
    let ran = desk.run(&[
        "merge",
        "--adapter",
        "adapter",
        "--base",
        "packed",
        "--out",
        "merged",
    ]);
    ran.says("merge", 0, &[]);
    assert!(!ran.stderr.contains("quantization_config"), "{ran:?}");
    let merged: Value = serde_json::from_str(&desk.read_text("merged/config.json")).unwrap();
    assert!(merged.get("quantization_config").is_none(), "{merged}");
}
