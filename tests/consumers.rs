//! `--for`: each rejection of each consumer, on a recipe before training where a recipe can say it,
//! and on the files of an adapter.

mod common;
mod support;

use std::fs;

use common::golden;
use rankine::files::safetensors::{Archive, Named, write_f32};
use serde_json::{Value, json};
use support::{Desk, RECIPE};

/// What is changed in the recipe, who is to serve it, the exit code and what is said.
type Fixture = (
    &'static str,
    &'static [&'static str],
    &'static str,
    i32,
    &'static [&'static str],
);

const BEFORE_TRAINING: [Fixture; 29] = [
    ("plain LoRA", &[], "vllm", 0, &[]),
    ("plain LoRA", &[], "peft", 0, &[]),
    (
        "a rank above the default",
        &["adapter.r=40"],
        "vllm",
        0,
        &["note: vLLM takes an adapter of rank 40 only with `--max-lora-rank 64`"],
    ),
    (
        "a rank in a pattern",
        &["adapter.rank_pattern.q_proj=17"],
        "vllm",
        0,
        &["rank 17 only with `--max-lora-rank 32`", "older releases"],
    ),
    (
        "a rank that it never takes",
        &["adapter.r=513"],
        "vllm",
        65,
        &[
            "error: vLLM takes ranks up to 512, this adapter has 513",
            "hint: lower `r`",
        ],
    ),
    (
        "modules_to_save",
        &["adapter.modules_to_save=[lm_head]"],
        "vllm",
        65,
        &[
            "vLLM takes no `modules_to_save`, this adapter has `lm_head`",
            "hint: train a plain LoRA",
        ],
    ),
    (
        "modules_to_save",
        &["adapter.modules_to_save=[lm_head]"],
        "llamacpp",
        65,
        &["matrices A and B only", "`lm_head.weight`"],
    ),
    (
        "rows",
        &["adapter.trainable_token_indices=[3]"],
        "vllm",
        65,
        &["vLLM takes no rows of tokens", "`rankine merge`"],
    ),
    (
        "rows",
        &["adapter.trainable_token_indices=[3]"],
        "llamacpp",
        65,
        &[
            "llama.cpp takes no rows of tokens",
            "`rankine export ADAPTER --to gguf",
        ],
    ),
    (
        "the embedding",
        &["adapter.target_modules=[q_proj, embed_tokens]"],
        "llamacpp",
        65,
        &[
            "matrices A and B only",
            "`model.embed_tokens.lora_embedding_A`",
        ],
    ),
    (
        "DoRA",
        &["adapter.use_dora=true"],
        "vllm",
        65,
        &["vLLM takes no DoRA", "hint: train a plain LoRA"],
    ),
    (
        "DoRA",
        &["adapter.use_dora=true"],
        "llamacpp",
        65,
        &["matrices A and B only, this adapter has tensor `lora_magnitude_vector`"],
    ),
    (
        "DoRA",
        &["adapter.use_dora=true"],
        "mlx",
        65,
        &["mlx-lm's format has matrices A and B only"],
    ),
    (
        "DoRA, merged",
        &["adapter.use_dora=true"],
        "ollama",
        0,
        &["note: Ollama needs a Modelfile", "--to ollama"],
    ),
    (
        "DoRA",
        &["adapter.use_dora=true"],
        "peft",
        0,
        &["note: vLLM takes no DoRA"],
    ),
    (
        "PiSSA, saved as a plain adapter of twice the rank",
        &["adapter.init_lora_weights=pissa", "adapter.r=10"],
        "vllm",
        0,
        &["note: vLLM takes an adapter of rank 20 only with `--max-lora-rank 32`"],
    ),
    (
        "biases",
        &["adapter.lora_bias=true"],
        "vllm",
        65,
        &["vLLM takes no biases in an adapter"],
    ),
    (
        "biases",
        &["adapter.lora_bias=true"],
        "llamacpp",
        65,
        &["this adapter has tensor `lora_B.bias`"],
    ),
    (
        "biases",
        &["adapter.lora_bias=true"],
        "ollama",
        65,
        &["Ollama takes no biases in an adapter, and this one cannot be merged"],
    ),
    (
        "biases",
        &["adapter.lora_bias=true"],
        "lmstudio",
        65,
        &["cannot be merged", "hint: train without `lora_bias`"],
    ),
    (
        "biases where the base has some",
        &[
            "adapter.lora_bias=true",
            "adapter.target_modules=[q_proj]",
            "base_model=qwen",
        ],
        "lmstudio",
        0,
        &["note: LM Studio takes no adapter"],
    ),
    (
        "biases",
        &["adapter.lora_bias=true"],
        "peft",
        0,
        &["note: vLLM takes no biases"],
    ),
    (
        "the head",
        &["adapter.target_modules=[lm_head]"],
        "vllm",
        65,
        &["vLLM takes no adapter of the head or the embedding, this one has `lm_head`"],
    ),
    (
        "rsLoRA",
        &["adapter.use_rslora=true"],
        "llamacpp",
        0,
        &[
            "note: llama.cpp's converter ignores `use_rslora`",
            "--to gguf-adapter",
        ],
    ),
    (
        "a broken alpha",
        &["adapter.alpha=0.5"],
        "ollama",
        0,
        &["note: Ollama takes whole numbers for alpha only, this adapter has 0.5"],
    ),
    (
        "a Modelfile",
        &[],
        "ollama",
        0,
        &[
            "note: Ollama needs a Modelfile with template and stops",
            "--to ollama",
        ],
    ),
    (
        "another family",
        &["base_model=qwen"],
        "ollama",
        0,
        &[
            "`llama` and `gemma2` only, this base is `qwen2`",
            "--to ollama",
        ],
    ),
    (
        "an adapter",
        &[],
        "lmstudio",
        0,
        &[
            "note: LM Studio takes no adapter, only models as GGUF files",
            "--to gguf",
        ],
    ),
    (
        "PEFT's files",
        &[],
        "mlx",
        0,
        &["note: mlx-lm does not read PEFT's files", "--to mlx"],
    ),
];

/// The desk, with a base of another family beside its own.
fn desk() -> Desk {
    let desk = Desk::new();
    fs::create_dir(desk.path("qwen")).unwrap();
    for file in fs::read_dir(golden("archs/qwen2/model"))
        .unwrap()
        .map(Result::unwrap)
    {
        fs::copy(file.path(), desk.path("qwen").join(file.file_name())).unwrap();
    }
    desk
}

#[test]
fn what_a_consumer_rejects_is_said_before_training() {
    let desk = desk();
    for (what, changes, consumer, exit, said) in BEFORE_TRAINING {
        let words = [&["check", "recipe.yaml", "--for", consumer], changes].concat();
        let ran = desk.run(&words);
        ran.says(&format!("{what}, {consumer}"), exit, said);
        assert!(exit != 0 || ran.stdout.contains("no faults"), "{ran:?}");
        assert!(
            !said.is_empty() || !ran.stderr.contains("note:"),
            "{what}: {ran:?}"
        );
    }
    // What a recipe's notes say anyway is not said twice.
    let ran = desk.run(&[
        "check",
        "recipe.yaml",
        "--for",
        "vllm",
        "--for",
        "vllm",
        "adapter.r=32",
    ]);
    assert_eq!(
        ran.stderr.matches("--max-lora-rank 32").count(),
        1,
        "{ran:?}"
    );
    desk.run(&["check", "recipe.yaml", "--for", "tgi"]).says(
        "an unknown one",
        2,
        &["vllm, llamacpp, ollama, lmstudio, peft, mlx"],
    );
}

#[test]
fn all_rejections_are_told_together_and_by_plan_too() {
    let desk = Desk::new();
    desk.edit(
        "base/config.json",
        "\"rope_type\": \"llama3\"",
        "\"rope_type\": \"dynamic\"",
    );
    let words = [
        "--for",
        "vllm",
        "--for",
        "lmstudio",
        "--for",
        "llamacpp",
        "adapter.r=600",
    ];
    let parts = [
        "ranks up to 512",
        "LM Studio cannot be given this base: a RoPE that is `dynamic`",
        "llama.cpp cannot be given this base",
    ];
    for verb in ["check", "plan"] {
        let ran = desk.run(&[&[verb, "recipe.yaml"], words.as_slice()].concat());
        ran.says(verb, 65, &parts);
        assert_eq!(
            ran.stdout.contains("trainable parameters"),
            verb == "plan",
            "{ran:?}"
        );
    }
    desk.run(&["check", "recipe.yaml", "adapter.r=600"]).says(
        "without --for",
        0,
        &["note: vLLM takes ranks up to 512"],
    );
}

#[test]
fn a_chat_template_that_ollama_cannot_render_is_told_before_training() {
    let desk = Desk::new();
    let check = || desk.run(&["check", "recipe.yaml", "--for", "ollama"]);
    let config = desk.read_text("base/tokenizer_config.json");
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        edit(&mut config);
        desk.write("base/tokenizer_config.json", config.to_string());
    };
    with(&|config| config["chat_template"] = Value::Null);
    check().says(
        "no template",
        65,
        &["Ollama cannot be given this chat template: `base` has no chat template"],
    );
    with(&|config| {
        config["chat_template"] =
            json!("{{ bos_token }}{{ strftime_now('%Y') }}{{ messages[0].content }}<|eot_id|>");
    });
    check().says(
        "the day",
        65,
        &[
            "prints the day",
            "hint: train with a copy of the chat template in which the day is written out",
        ],
    );
    let template = config.replace("<|end_header_id|>\\\\n\\\\n", "<|end_header_id|>\\\\n");
    desk.write("base/tokenizer_config.json", template);
    check().says(
        "another format",
        0,
        &[
            "otherwise than the chat template",
            "write a Go template that renders the same",
        ],
    );
}

#[test]
fn a_rope_that_mlx_lm_does_not_read_is_told() {
    let desk = desk();
    let said = "has only `rope_parameters`: it computes another RoPE";
    desk.run(&["check", "recipe.yaml", "--for", "mlx"])
        .says("before training", 0, &[said]);
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.run(&[
        "export", "run", "--to", "mlx", "--out", "mlx", "--for", "mlx",
    ])
    .says("of the files", 0, &[said]);
    // Qwen2's is the one that mlx-lm takes anyway, and transformers 4 wrote the keys that it reads.
    let check = || desk.run(&["check", "recipe.yaml", "--for", "mlx", "base_model=qwen"]);
    assert!(!check().stderr.contains("RoPE"));
    fs::copy(
        golden("archs/llama/config_v4.json"),
        desk.path("base/config.json"),
    )
    .unwrap();
    assert!(
        !desk
            .run(&["check", "recipe.yaml", "--for", "mlx"])
            .stderr
            .contains("RoPE")
    );
}

/// By what each family's code in mlx-lm reads, and where it has windows.
#[test]
fn what_mlx_lm_computes_otherwise_is_told_by_family() {
    let desk = desk();
    let (rope, window) = (
        "it computes another RoPE",
        "mlx-lm computes no such sliding windows: beyond ",
    );
    for (family, said) in [
        ("gemma", &[] as &[&str]),
        ("gemma2", &[window]),
        ("gemma3_text", &[rope, window]),
        (
            "granite",
            &["mlx-lm needs `rope_theta`", "it does not load it"],
        ),
        ("mistral", &[rope, window]),
        ("olmo2", &[rope]),
        ("phi3", &[]),
        ("phi3_longrope", &[rope, window]),
        ("qwen3", &[]),
        ("smollm3", &[rope]),
    ] {
        let base = golden(&format!("archs/{family}/model"))
            .display()
            .to_string();
        let ran = desk.run(&[
            "check",
            "recipe.yaml",
            "--for",
            "mlx",
            &format!("base_model={base}"),
        ]);
        ran.says(family, 0, said);
        for one in [rope, window, "does not load"] {
            assert_eq!(
                ran.stderr.contains(one),
                said.iter().any(|part| part.contains(one)),
                "{family}: {ran:?}"
            );
        }
    }
}

/// llama.cpp's names of architectures are those by which Ollama chooses.
#[test]
fn ollama_converts_adapters_of_two_architectures() {
    let desk = desk();
    for (family, converts) in [
        ("llama", true),
        ("mistral", true),
        ("gemma2", true),
        ("gemma", false),
        ("phi3", false),
    ] {
        let base = golden(&format!("archs/{family}/model"))
            .display()
            .to_string();
        let ran = desk.run(&[
            "check",
            "recipe.yaml",
            "--for",
            "ollama",
            &format!("base_model={base}"),
        ]);
        assert_eq!(
            !ran.stderr.contains("`llama` and `gemma2` only"),
            converts,
            "{family}: {ran:?}"
        );
    }
}

/// An adapter of the desk's base, as PEFT wrote it, in the folder `own`.
fn adapter() -> Desk {
    let desk = Desk::new();
    fs::create_dir(desk.path("own")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(
            golden("archs/llama/adapter").join(name),
            desk.path("own").join(name),
        )
        .unwrap();
    }
    desk
}

/// Puts a value into its config.
fn set(desk: &Desk, key: &str, value: Value) {
    let mut config: Value =
        serde_json::from_str(&desk.read_text("own/adapter_config.json")).unwrap();
    config[key] = value;
    desk.write("own/adapter_config.json", config.to_string());
}

fn edit_tensors(desk: &Desk, edit: impl FnOnce(&mut Vec<Named>)) {
    let path = desk.path("own/adapter_model.safetensors");
    let archive = Archive::open(&path).unwrap();
    let shapes = archive.shapes().into_iter();
    let mut tensors: Vec<Named> = shapes
        .map(|(name, shape)| {
            (
                name.clone(),
                shape,
                archive.read_f32(&name).unwrap().unwrap(),
            )
        })
        .collect();
    drop(archive);
    edit(&mut tensors);
    write_f32(&path, &tensors, &[]).unwrap();
}

/// Adds a tensor.
fn add(desk: &Desk, name: &str) {
    edit_tensors(desk, |tensors| {
        tensors.push((name.to_owned(), vec![1, 2], vec![0.0; 2]));
    });
}

/// Renames all tensors.
fn rename(desk: &Desk, from: &str, to: &str) {
    edit_tensors(desk, |tensors| {
        for (name, ..) in tensors {
            *name = name.replace(from, to);
        }
    });
}

/// Exports to PEFT's format for a consumer.
fn export(desk: &Desk, consumer: &str) -> support::Ran {
    desk.run(&[
        "export", "own", "--to", "peft", "--base", "base", "--out", "out", "--for", consumer,
    ])
}

#[test]
fn what_a_consumer_rejects_is_said_of_the_files() {
    type Edit = fn(&Desk);
    const HEAD: &str = "base_model.model.lm_head";
    let fixtures: [(&str, Edit, &str, &str); 14] = [
        (
            "modules_to_save",
            |desk| set(desk, "modules_to_save", json!(["lm_head"])),
            "vllm",
            "vLLM takes no `modules_to_save`, this adapter has `lm_head`",
        ),
        (
            "DoRA",
            |desk| set(desk, "use_dora", json!(true)),
            "vllm",
            "vLLM takes no DoRA",
        ),
        (
            "lora_bias",
            |desk| set(desk, "lora_bias", json!(true)),
            "vllm",
            "vLLM takes no biases",
        ),
        (
            "bias",
            |desk| set(desk, "bias", json!("all")),
            "vllm",
            "vLLM takes no biases",
        ),
        (
            "a rank",
            |desk| set(desk, "r", json!(1024)),
            "vllm",
            "vLLM takes ranks up to 512, this adapter has 1024",
        ),
        (
            "the head",
            |desk| add(desk, &format!("{HEAD}.lora_A.weight")),
            "vllm",
            "the head or the embedding, this one has `base_model.model.lm_head`",
        ),
        (
            "a prefix",
            |desk| rename(desk, "base_model.model.", ""),
            "vllm",
            "serves the base without a word",
        ),
        (
            "a prefix",
            |desk| rename(desk, "model.model.", "model."),
            "peft",
            "no module for tensor `base_model.model.layers.0.",
        ),
        (
            "a stray tensor",
            |desk| add(desk, &format!("{HEAD}.weight")),
            "llamacpp",
            "matrices A and B only, this adapter has tensor `base_model.model.lm_head.weight`",
        ),
        (
            "rsLoRA",
            |desk| set(desk, "use_rslora", json!(true)),
            "llamacpp",
            "llama.cpp's converter ignores `use_rslora`",
        ),
        (
            "a broken alpha",
            |desk| set(desk, "lora_alpha", json!(8.5)),
            "ollama",
            "whole numbers for alpha only, this adapter has 8.5",
        ),
        (
            "patterns",
            |desk| set(desk, "alpha_pattern", json!({"q_proj": 2})),
            "ollama",
            "Ollama scales every module by alpha / r",
        ),
        (
            "an adapter",
            |_| (),
            "lmstudio",
            "LM Studio reads models as GGUF files and takes no adapter, not an adapter in PEFT's \
            format",
        ),
        (
            "PEFT's files",
            |_| (),
            "mlx",
            "mlx-lm reads adapters.safetensors and its own adapter_config.json",
        ),
    ];
    for (what, edit, consumer, said) in fixtures {
        let desk = adapter();
        edit(&desk);
        let ran = export(&desk, consumer);
        ran.says(&format!("{what}, {consumer}"), 65, &[said, "hint:"]);
        assert!(!desk.path("out").exists(), "{what}");
    }
}

#[test]
fn a_whole_model_is_not_told_of_adapters() {
    let desk = Desk::new();
    let full = ["recipe.yaml", "adapter.r=", "adapter.method=full"];
    let of = |verb: &'static str, consumer: &'static str| {
        desk.run(&[&[verb], &full[..], &["--for", consumer]].concat())
    };
    for (consumer, said) in [
        ("vllm", None),
        ("mlx", None),
        (
            "peft",
            Some("PEFT has nothing to load of a whole model; give its folder to transformers"),
        ),
        (
            "llamacpp",
            Some("llama.cpp reads models as GGUF files; write one with `rankine export --to gguf`"),
        ),
        (
            "lmstudio",
            Some("LM Studio reads models as GGUF files; write one with `rankine export --to gguf`"),
        ),
        (
            "ollama",
            Some(
                "Ollama needs a Modelfile with template and stops; write it with `rankine \
                export --to ollama`",
            ),
        ),
    ] {
        let ran = of("check", consumer);
        ran.says(consumer, 0, said.as_slice());
        assert!(
            !ran.stderr.contains("adapter") && !ran.stderr.contains("PEFT's"),
            "{ran:?}"
        );
    }
    desk.run(&[&["train"], &full[..]].concat())
        .says("train", 0, &[]);
    let export = |consumer| {
        desk.run(&[
            "export", "run", "--to", "gguf", "--out", "x", "--for", consumer,
        ])
    };
    for (consumer, next) in [
        ("vllm", "hint: give it the model's folder"),
        ("mlx", "hint: give it the model's folder"),
        ("peft", "hint: give the model's folder to transformers"),
    ] {
        export(consumer).says(
            consumer,
            65,
            &["does not read a model as a GGUF file", next],
        );
    }
    export("llamacpp").says("llama.cpp", 0, &[]);
    desk.run(&["merge", "--adapter", "run", "--out", "y"]).says(
        "merge",
        65,
        &["holds a run of all weights", "`run/model`"],
    );
}

#[test]
fn what_a_consumer_takes_is_written() {
    for (consumer, note) in [
        ("vllm", None),
        ("peft", None),
        ("llamacpp", Some("through its converter only")),
        ("ollama", Some("through a Modelfile")),
    ] {
        let desk = adapter();
        let ran = export(&desk, consumer);
        ran.says(consumer, 0, note.as_slice());
        assert_eq!(ran.stderr.contains("note:"), note.is_some(), "{ran:?}");
        assert!(desk.path("out/adapter_model.safetensors").exists());
    }
    // A point in a whole alpha is taken away by the export.
    let desk = adapter();
    set(&desk, "lora_alpha", json!(8.0));
    export(&desk, "ollama").says("a point", 0, &[]);
    assert!(
        desk.read_text("out/adapter_config.json")
            .contains("\"lora_alpha\": 8,")
    );
    let words = |form: &'static str, consumer: &'static str| {
        [
            "export", "own", "--to", form, "--base", "base", "--out", "x", "--for", consumer,
        ]
    };
    for (form, consumer) in [
        ("gguf-adapter", "lmstudio"),
        ("gguf-adapter", "vllm"),
        ("mlx", "llamacpp"),
        ("mlx", "peft"),
        ("gguf", "mlx"),
    ] {
        desk.run(&words(form, consumer)).says(
            &format!("{form}, {consumer}"),
            65,
            &["reads", "hint:"],
        );
    }
    desk.run(&words("gguf", "lmstudio"))
        .says("a merged model", 0, &[]);
    assert!(desk.read("x").starts_with(b"GGUF"));
    assert!(RECIPE.contains("base_model: base"));
}
