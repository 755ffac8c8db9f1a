//! A config.json that describes no model, or one whose mathematics is not known, is refused with
//! both sides before anything else happens; and what a wrapper holds, or four bits of another
//! maker, is the decoder that it says.

mod common;
mod support;

use std::fs;

use common::{FAMILIES, committed, difference, golden, json, load, logits, rows};
use rankine::files::safetensors::{Archive, Named, write_f32};
use rankine::model::DecoderSpec;
use serde_json::{Value, json};
use support::Desk;

/// A base of the desk with a family's folder and some keys of its config.json changed; `null` takes
/// a key away.
fn doctored(desk: &Desk, family: &str, changes: &Value) {
    for file in fs::read_dir(committed(&format!("archs/{family}/model")))
        .unwrap()
        .map(Result::unwrap)
    {
        fs::copy(file.path(), desk.path("base").join(file.file_name())).unwrap();
    }
    let path = desk.path("base/config.json");
    let mut config = json(&path);
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            config.as_object_mut().unwrap().remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn configs_that_cannot_be_right_are_refused_with_both_sides() {
    let cases = [
        (
            "llama",
            json!({"hidden_size": null}),
            "config.json does not set `hidden_size` (default 4096): the defaults of transformers \
            are used",
        ),
        (
            "qwen2",
            json!({"is_causal": false}),
            "`is_causal` is `false`, known is `true`",
        ),
        (
            "llama",
            json!({"per_layer_config": {"1": {"skip": ["attention"]}}}),
            "`per_layer_config` gives layers values of their own",
        ),
        (
            "gemma",
            json!({"use_bidirectional_attention": true}),
            "`use_bidirectional_attention` is `true`, known is `false`",
        ),
        (
            "qwen3",
            json!({"layer_types": ["full_attention"]}),
            "`layer_types` has 1 layers, expected 2, `num_hidden_layers`",
        ),
        (
            "gemma2",
            json!({"layer_types": "full_attention"}),
            "`layer_types` is `\"full_attention\"`, expected a list with a kind for each layer",
        ),
        (
            "qwen2",
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "layer 1 has a window and there is no `sliding_window`, expected a number of tokens",
        ),
        (
            "llama",
            json!({"partial_rotary_factor": 0.5}),
            "`partial_rotary_factor` is 0.5, known is 1 in this family",
        ),
        (
            "llama",
            json!({"num_key_value_heads": 3}),
            "`num_attention_heads` is 4, not a multiple of `num_key_value_heads`, 3",
        ),
        (
            "llama",
            json!({"hidden_act": "relu"}),
            "`hidden_act` is `relu`, known are `silu`",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}),
            "`rope_type` is `spiral`, known are `default`, `linear`",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "default", "mrope_section": [1]}}),
            "the rotation has the key `mrope_section`, known are",
        ),
        (
            "gemma2",
            json!({"layer_types": ["sliding_attention", "looking_back"]}),
            "`layer_types` of layer 1 is `looking_back`, known are `full_attention`, \
            `sliding_attention`",
        ),
        (
            "mixtral",
            json!({"num_experts_per_tok": 9}),
            "a layer has 4 experts, of which a token is sent to 9",
        ),
        (
            "deepseek_v3",
            json!({"n_group": 3}),
            "`n_group` is 3, of which `topk_group`, 1, are looked at: 4 experts do not divide so",
        ),
        (
            "deepseek_v3",
            json!({"scoring_func": "softmax"}),
            "`scoring_func` is `softmax`, known are `sigmoid`",
        ),
        (
            "deepseek_v2",
            json!({"topk_method": "random"}),
            "`topk_method` is `random`, known are `greedy`, `group_limited_greedy`",
        ),
        (
            "falcon_7b",
            json!({"alibi": true}),
            "`alibi` is `true`, known is `false`",
        ),
        (
            "phi3",
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.1}}),
            "`partial_rotary_factor` is 0.1: 0 of 8 features would be turned, expected pairs",
        ),
        (
            "phi",
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.4}}),
            "features to be turned, expected an even number",
        ),
        (
            "gemma4_small",
            json!({"num_kv_shared_layers": 4}),
            "`num_kv_shared_layers` is 4, expected fewer than `num_hidden_layers`, 4",
        ),
        (
            "gemma4_small",
            json!({"num_kv_shared_layers": 3}),
            "layer 1 uses keys and values of a lower layer of its kind in `layer_types`, and none \
            of the lowest 1 is of it",
        ),
        (
            "gemma4_small",
            json!({"vocab_size_per_layer_input": 608}),
            "`vocab_size_per_layer_input` is 608, expected `vocab_size`, 304",
        ),
        (
            "gemma4_dense",
            json!({"per_layer_config": {"1": {"head_dim": 16, "sliding_window": 2}}}),
            "`per_layer_config` has `sliding_window` for layer 1, known are `head_dim`, \
            `num_key_value_heads`",
        ),
        (
            "gemma4_dense",
            json!({"use_bidirectional_attention": "all"}),
            "`use_bidirectional_attention` is `all`, known are `vision`",
        ),
        (
            "gemma4_dense",
            json!({"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}}),
            "`rope_parameters` has no `full_attention`, expected the rotation of such layers",
        ),
        (
            "qwen3_moe",
            json!({"model_type": "qwen9"}),
            "`model_type` is `qwen9`, known are `bert`, `cohere2`, ",
        ),
        (
            "qwen2",
            json!({"vocab_size": 305}),
            "tensor `model.embed_tokens.weight` has shape [304, 32], expected [305, 32]",
        ),
    ];
    for (family, changes, said) in cases {
        let desk = Desk::new();
        doctored(&desk, family, &changes);
        for command in [
            ["check", "recipe.yaml"],
            ["train", "recipe.yaml"],
            ["inspect", "base"],
        ] {
            desk.run(&command).says(said, 65, &[said]);
        }
        assert!(!desk.path("run").exists(), "{said}");
    }
}

/// The rows that reports of these cases came with, and what transformers 5.23 computes from them,
/// nats a token.
#[test]
fn values_that_change_the_mathematics_give_the_loss_of_transformers() {
    let cases = [
        // Ministral: layer 0 is full and layer 1 has the window.
        (
            "mistral",
            json!({"sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"]}),
            6.269_998,
        ),
        // `max_window_layers` is not looked at.
        (
            "qwen3_moe",
            json!({"use_sliding_window": true, "sliding_window": 2, "max_window_layers": 1}),
            6.085_683,
        ),
        // It acts in training only.
        ("granite", json!({"attention_dropout": 0.1}), 5.977_287),
    ];
    for (family, changes, expected) in cases {
        let desk = Desk::new();
        doctored(&desk, family, &json!({}));
        fs::copy(
            committed(&format!("archs/{family}/config_v4.json")),
            desk.path("base/config.json"),
        )
        .unwrap();
        let mut config = json(&desk.path("base/config.json"));
        config
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        desk.write("base/config.json", config.to_string());
        fs::copy(
            committed("configs/rows.parquet"),
            desk.path("other.parquet"),
        )
        .unwrap();
        let ran = desk.run(&[
            "eval",
            "recipe.yaml",
            "training.sequence_len=512",
            "--data",
            "other.parquet",
            "--json",
        ]);
        ran.says(family, 0, &[]);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        let loss = told["sets"][0]["base"]["loss"]
            .as_f64()
            .unwrap_or_else(|| panic!("{told}"));
        assert!(
            (loss - expected).abs() < 2e-6,
            "{family}: {loss}, transformers {expected}"
        );
    }
}

/// Dropout of the base itself is not built: every verb but those that train computes as without it,
/// and those say how to train without.
#[test]
fn dropout_of_the_base_is_judged_by_what_trains() {
    for (family, key) in [
        ("granite", "attention_dropout"),
        ("phi3", "resid_pdrop"),
        ("phi3", "embd_pdrop"),
        ("falcon_7b", "hidden_dropout"),
        ("mixtral", "router_jitter_noise"),
    ] {
        let desk = Desk::new();
        doctored(&desk, family, &json!({ key: 0.1 }));
        let said = format!(
            "base_model: its config.json has `{key}` 0.1, which acts in training \
            and is not built, known is 0"
        );
        for command in ["check", "plan", "train"] {
            desk.run(&[command, "recipe.yaml"]).says(
                key,
                65,
                &[
                    &said,
                    "recipe.yaml:1:",
                    "hint: set `training.base_dropout: 0`",
                ],
            );
        }
        assert!(!desk.path("run").exists(), "{key}");
        let told = desk.run(&["inspect", "base"]);
        told.says(key, 0, &[]);
        assert!(
            told.stdout.contains(&format!("{key} 0.1: not built")),
            "{}",
            told.stdout
        );
        desk.run(&["eval", "recipe.yaml", "--data", "rows.parquet"])
            .says(key, 0, &[]);
        desk.run(&[
            "generate",
            "--base",
            "base",
            "--prompt",
            "the term",
            "--max-tokens",
            "2",
        ])
        .says(key, 0, &[]);

        let left_out = format!(
            "note: `{key}` 0.1 of the base is left out, as `training.base_dropout: 0` says"
        );
        desk.run(&["train", "recipe.yaml", "training.base_dropout=0"])
            .says(key, 0, &[&left_out]);
        assert!(
            desk.read_text("run/README.md")
                .contains("| `training.base_dropout` | `0.0`"),
            "{}",
            desk.read_text("run/README.md")
        );
        assert!(
            desk.read_text("run/recipe.lock.yaml")
                .contains("base_dropout: 0"),
            "{key}: the lock says it"
        );
        desk.run(&[
            "merge",
            "--base",
            "base",
            "--adapter",
            "run/adapter",
            "--out",
            "merged",
        ])
        .says(key, 0, &[]);
        assert_eq!(json(&desk.path("merged/config.json"))[key], 0.1);
    }
    let desk = Desk::new();
    desk.run(&["check", "recipe.yaml", "training.base_dropout=0.1"])
        .says(
            "a share",
            65,
            &["expected 0: the base's own dropout is left out"],
        );
    desk.run(&["train", "recipe.yaml", "training.base_dropout=0"])
        .says("a base without", 0, &[]);
}

/// `padding_idx` of the embedding as transformers 5.23 builds it from these configs: with the key,
/// without it, null and below 0.
#[test]
fn the_token_of_padding_is_that_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for family in FAMILIES {
        let mut config = json(&golden(&format!("archs/{family}/model/config.json")));
        // As many tokens as real models have, so that what stands for an absent key is among them.
        config["vocab_size"] = json!(200_064);
        if config["vocab_size_per_layer_input"].is_number() {
            config["vocab_size_per_layer_input"] = json!(200_064);
        }
        let mut read = |id: Option<Value>| {
            config.as_object_mut().unwrap().remove("pad_token_id");
            if let Some(id) = id {
                config["pad_token_id"] = id;
            }
            fs::write(&path, config.to_string()).unwrap();
            DecoderSpec::read(&path).unwrap().padding
        };
        let absent = match family {
            "gemma" | "gemma2" | "gemma3_text" | "gemma4_dense" | "gemma4_moe" | "gemma4_small"
            | "cohere2" | "hunyuan_v1_dense" | "ernie4_5" | "lfm2" => Some(0),
            "lfm3" => Some(124_893),
            "olmo2" | "olmo3" | "olmoe" | "seed_oss" | "nanochat" => Some(1),
            "ministral3" => Some(11),
            "glm4" => Some(151_329),
            "phi3" | "phi3_longrope" => Some(32_000),
            "smollm3" => Some(128_004),
            _ => None,
        };
        let ids = [
            Some(json!(7)),
            None,
            Some(Value::Null),
            Some(json!(-1)),
            Some(json!(200_064)),
        ];
        let expected = [Some(7), absent, None, Some(200_063), None];
        // Their embeddings know no token of padding.
        let expected = if family.starts_with("falcon") || ["gpt_neox", "gpt2"].contains(&family) {
            [None; 5]
        } else {
            expected
        };
        assert_eq!(ids.map(&mut read), expected, "{family}");
    }
}

/// A decoder inside a model that does more: its tensors under either version's names, and a tower
/// beside it that is not asked for.
#[test]
fn the_text_decoder_of_a_wrapper_is_the_decoder() {
    let folder = golden("archs/gemma3_text");
    let archive = Archive::open(&folder.join("golden.safetensors")).unwrap();
    let batch = common::batch(rows(&archive, "", None));
    let expected = logits(&load(&folder.join("model")), &batch);
    for (model, head) in [
        ("model.language_model.", "lm_head."),
        ("language_model.model.", "language_model.lm_head."),
    ] {
        let desk = Desk::new();
        let base = desk.path("base");
        doctored(&desk, "gemma3_text", &json!({}));
        let text = json(&base.join("config.json"));
        fs::write(
            base.join("config.json"),
            json!({"model_type": "gemma3", "text_config": text, "vision_config": {}}).to_string(),
        )
        .unwrap();
        let weights = Archive::open(&folder.join("model/model.safetensors")).unwrap();
        let renamed = |name: String| name.replace("model.", model).replace("lm_head.", head);
        let mut tensors: Vec<Named> = weights
            .shapes()
            .into_iter()
            .map(|(name, shape)| {
                (
                    renamed(name.clone()),
                    shape,
                    weights.read_f32(&name).unwrap().unwrap(),
                )
            })
            .collect();
        tensors.push((
            "vision_tower.patch.weight".to_owned(),
            vec![2, 2],
            vec![1.0; 4],
        ));
        write_f32(&base.join("model.safetensors"), &tensors, &[]).unwrap();

        let decoder = load(&base);
        assert_eq!(
            decoder.projections().next().unwrap().name,
            "model.language_model.layers.0.self_attn.q_proj"
        );
        assert!(
            difference(&logits(&decoder, &batch), &expected) == 0.0,
            "{model}"
        );
        desk.run(&["train", "recipe.yaml"]).says(model, 0, &[]);
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
        .says(model, 0, &[]);
        let shapes = |folder: &str| {
            Archive::open(&desk.path(folder).join("model.safetensors"))
                .unwrap()
                .shapes()
        };
        assert_eq!(shapes("merged"), shapes("base"));
        let merged = Archive::open(&desk.path("merged/model.safetensors")).unwrap();
        let query = format!("{model}layers.0.self_attn.q_proj.weight");
        let [old, new] = [
            &Archive::open(&base.join("model.safetensors")).unwrap(),
            &merged,
        ]
        .map(|file| file.read_f32(&query).unwrap().unwrap());
        assert!(
            difference(&old, &new) > 0.0,
            "{model}: the adapter is merged"
        );
    }
}
