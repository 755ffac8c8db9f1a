//! Adapters of the embedding and the head through the binary: what a recipe says of them, the run,
//! going on with it, its merge, and who takes what comes out.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::fs;

use common::golden;
use rankine::files::safetensors::Archive;
use rankine::model::Folder;
use rankine::train::RunFolder;
use serde_json::Value;
use support::{Desk, Ran};

const RECIPE: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: text
adapter:
  r: 4
  dropout: 0.1
training:
  sequence_len: 64
  max_steps: 6
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 1e-2
evaluation:
  val_set_size: 4
  eval_steps: 2
output:
  save_steps: 2
  save_total_limit: 100
";

/// What trains, by the words of a recipe, and the tensors that the adapter has beside matrices of
/// projections; the last where the head is the embedding.
type Kind = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const BOTH: [&str; 2] = ["lm_head.weight", "model.embed_tokens.weight"];
const MATRICES: [&str; 4] = [
    "lm_head.lora_A.weight",
    "lm_head.lora_B.weight",
    "model.embed_tokens.lora_embedding_A",
    "model.embed_tokens.lora_embedding_B",
];
const ROWS: &str = "model.embed_tokens.token_adapter.trainable_tokens_delta";
const KINDS: [Kind; 5] = [
    (
        "tables",
        &["adapter.modules_to_save=[embed_tokens, lm_head]"],
        &BOTH,
        &BOTH,
    ),
    (
        "the head",
        &["adapter.modules_to_save=[lm_head]"],
        &["lm_head.weight"],
        &["lm_head.weight"],
    ),
    (
        "matrices",
        &["adapter.target_modules=[q_proj, embed_tokens, lm_head]"],
        &MATRICES,
        &MATRICES,
    ),
    (
        "rows",
        &["adapter.trainable_token_indices=[84, 104, 101]"],
        &[ROWS],
        &[ROWS],
    ),
    (
        "rows of both",
        &["adapter.trainable_token_indices={embed_tokens: [84, 104], lm_head: [84, 104]}"],
        &["lm_head.token_adapter.trainable_tokens_delta", ROWS],
        &[ROWS],
    ),
];

/// A desk on the base of a family.
fn desk(family: &str) -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("base")).unwrap();
    rankine::files::mirror(
        &golden(&format!("archs/{family}/model")),
        &desk.path("base"),
    )
    .unwrap();
    desk.write("recipe.yaml", RECIPE);
    desk
}

fn object(ran: &Ran) -> Value {
    ran.says("a command with --json", 0, &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

/// Tensors of a run's adapter that are in no layer.
fn outside(desk: &Desk, run: &str) -> Vec<String> {
    let archive = Archive::open(&desk.path(run).join("adapter/adapter_model.safetensors")).unwrap();
    let names = archive
        .shapes()
        .into_keys()
        .filter(|name| !name.contains(".layers."));
    names
        .map(|name| name.strip_prefix("base_model.model.").unwrap().to_owned())
        .collect()
}

fn loss_of(desk: &Desk, base: &str) -> f64 {
    let said = format!("base_model={base}");
    let words = [
        "train",
        "recipe.yaml",
        &said,
        "output_dir=scored",
        "training.max_steps=1",
        "--overwrite",
        "--json",
    ];
    let result = object(
        &desk.run(
            &[
                &words[..],
                &[
                    "adapter.trainable_token_indices=",
                    "adapter.modules_to_save=",
                ],
            ]
            .concat(),
        ),
    );
    result["eval_loss_first"].as_f64().unwrap()
}

#[test]
fn each_trains_is_merged_and_goes_on() {
    for (family, packs) in [("llama", false), ("llama", true), ("qwen2", true)] {
        let is_tied = family == "qwen2";
        for (what, words, own, tied) in KINDS {
            let desk = desk(family);
            let method = if packs {
                "adapter.method=qlora"
            } else {
                "adapter.method=lora"
            };
            let train = [
                &["train", "recipe.yaml", "output_dir=run", "--json", method],
                words,
            ]
            .concat();
            let result = object(&desk.run(&train));
            let said = format!("{what} on {family}, packed: {packs}");
            let best = result["eval_loss_best"].as_f64().unwrap();
            assert!(
                best < result["eval_loss_first"].as_f64().unwrap(),
                "{said}: {result}"
            );
            assert_eq!(
                outside(&desk, "run"),
                if is_tied { tied } else { own },
                "{said}"
            );

            let eval = object(&desk.run(&["eval", "run", "--json"]));
            let scored = eval["total"]["adapter"]["loss"].as_f64().unwrap();
            assert!((scored - best).abs() < 1e-9, "{said}: {scored}, {best}");
            desk.run(&[
                "generate",
                "--adapter",
                "run/adapter",
                "--prompt",
                "the term",
                "--max-tokens",
                "3",
            ])
            .says("generate", 0, &[]);

            desk.run(&[
                "merge",
                "--adapter",
                "run/adapter",
                "--out",
                "merged",
                "--dtype",
                "f32",
            ])
            .says(&said, 0, &[]);
            let merged = loss_of(&desk, "merged");
            let near = if packs { 0.1 } else { 1e-5 };
            assert!(
                (merged - best).abs() < near,
                "{said}: {merged} merged, {best} trained"
            );
            let apart = Folder::open(&desk.path("merged")).unwrap().spec;
            assert_eq!(apart.tied_head, is_tied && own.contains(&ROWS), "{said}");

            let next = [
                "train",
                "recipe.yaml",
                "output_dir=next",
                "adapter.r=",
                "adapter.init_from=run/adapter",
                method,
                "--json",
            ];
            let next = object(&desk.run(&next));
            assert!(
                (next["eval_loss_first"].as_f64().unwrap() - best).abs() < 1e-9,
                "{said}: {next}"
            );
            assert_eq!(outside(&desk, "next"), outside(&desk, "run"), "{said}");
        }
    }
}

#[test]
fn every_checkpoint_can_be_gone_on_from_to_the_bit() {
    for (family, words) in KINDS
        .iter()
        .flat_map(|(_, words, ..)| [("llama", words), ("qwen2", words)])
    {
        let desk = desk(family);
        let method = if family == "llama" {
            "adapter.method=qlora"
        } else {
            "adapter.method=lora"
        };
        desk.run(&[&["train", "recipe.yaml", "output_dir=run", method], *words].concat())
            .says("train", 0, &[]);
        for step in [2, 4] {
            let half = format!("half-{step}");
            fs::create_dir_all(desk.path(&half).join("checkpoints")).unwrap();
            for file in ["recipe.lock.yaml", "metrics.jsonl"] {
                desk.write(&format!("{half}/{file}"), desk.read(&format!("run/{file}")));
            }
            let name = format!("checkpoints/step-{step}");
            rankine::files::mirror(&desk.path("run").join(&name), &desk.path(&half).join(&name))
                .unwrap();
            desk.write(
                &format!("{half}/{name}/manifest.json"),
                desk.read(&format!("run/{name}/manifest.json")),
            );
            desk.run(&["resume", &half]).says(
                "resume",
                0,
                &[&format!("going on after step {step}")],
            );
            for file in [
                "adapter/adapter_model.safetensors",
                "adapter/adapter_config.json",
                "checkpoints/step-6/optimizer.safetensors",
            ] {
                assert!(
                    desk.read(&format!("{half}/{file}")) == desk.read(&format!("run/{file}")),
                    "{words:?}: {file} from {step}"
                );
            }
        }
    }
}

#[test]
fn the_plan_counts_what_trains_and_the_disk_holds_it() {
    for (family, words, tables) in [
        (
            "llama",
            "adapter.modules_to_save=[embed_tokens, lm_head]",
            2 * 304 * 32,
        ),
        (
            "qwen2",
            "adapter.modules_to_save=[embed_tokens, lm_head]",
            2 * 304 * 32,
        ),
        ("llama", "adapter.trainable_token_indices=[1, 2, 3]", 3 * 32),
        (
            "qwen2",
            "adapter.trainable_token_indices={embed_tokens: [1, 2], lm_head: [1, 2]}",
            2 * 32,
        ),
        (
            "llama",
            "adapter.trainable_token_indices={embed_tokens: [1, 2], lm_head: [5]}",
            3 * 32,
        ),
    ] {
        let desk = desk(family);
        let plan = |words: &[&str]| {
            object(&desk.run(&[&["plan", "recipe.yaml", "--json"], words].concat()))
        };
        let (bare, with) = (plan(&[]), plan(&[words]));
        let count = |plan: &Value| plan["trainable_parameters"].as_u64().unwrap();
        assert_eq!(count(&with) - count(&bare), tables, "{words} on {family}");
        let parts = |plan: &Value, key: &str| plan["memory"]["parts"][key].as_u64().unwrap();
        assert_eq!(
            parts(&with, "trained_bytes"),
            4 * count(&with),
            "{words} on {family}"
        );
        assert_eq!(
            parts(&with, "moments_bytes"),
            8 * count(&with),
            "{words} on {family}"
        );
        // In the place of a table of the base is its copy: of one that is both, where both are
        // copied.
        let replaced = if words.contains("modules_to_save") {
            (if family == "llama" { 2 } else { 1 }) * 4 * 304 * 32
        } else {
            0
        };
        assert_eq!(
            parts(&bare, "base_bytes") - parts(&with, "base_bytes"),
            replaced,
            "{words} on {family}"
        );

        desk.run(&["train", "recipe.yaml", "output_dir=run", words])
            .says("train", 0, &[]);
        let size = |file: &str| desk.path("run").join(file).metadata().unwrap().len();
        let files = ["adapter", "checkpoints/step-6/adapter"]
            .map(|folder| size(&format!("{folder}/adapter_model.safetensors")));
        let written = files.iter().sum::<u64>() + size("checkpoints/step-6/optimizer.safetensors");
        let needed = RunFolder::needed_bytes(count(&with) as usize);
        assert!(
            written < needed && needed - written < 200_000,
            "{words} on {family}: {written} written, {needed} needed"
        );
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let desk = desk("llama");
    let qlora = "adapter.method=qlora";
    let cases: [(&[&str], &[&str]); 17] = [
        (
            &["adapter.modules_to_save=[norm]"],
            &[
                "adapter.modules_to_save: `norm` is neither the embedding nor the head",
                "`model.embed_tokens` and `lm_head`",
            ],
        ),
        (
            &["adapter.modules_to_save=[q_proj]"],
            &[
                "`q_proj` is neither the embedding nor the head",
                "hint: give it an adapter with `target_modules`",
            ],
        ),
        (
            &["adapter.modules_to_save=[lm_head, lm_head]"],
            &["`lm_head` is named twice"],
        ),
        (
            &["adapter.modules_to_save=lm_head"],
            &["adapter.modules_to_save: expected a list"],
        ),
        (
            &[
                "adapter.modules_to_save=[lm_head]",
                "adapter.target_modules=[q_proj, lm_head]",
            ],
            &[
                "adapter.modules_to_save: `lm_head` is among the `target_modules` too",
                "hint: name it in one of the two",
            ],
        ),
        (
            &[
                "adapter.modules_to_save=[embed_tokens]",
                "adapter.trainable_token_indices=[1]",
            ],
            &["adapter.trainable_token_indices: `model.embed_tokens` is named twice"],
        ),
        (
            &[
                "adapter.trainable_token_indices=[1]",
                "adapter.target_modules=[embed_tokens]",
            ],
            &[
                "adapter.trainable_token_indices: `model.embed_tokens` is among the \
                `target_modules` too",
            ],
        ),
        (
            &["adapter.trainable_token_indices=[304]"],
            &["token 304 has no row in `model.embed_tokens`, which has 304"],
        ),
        (
            &["adapter.trainable_token_indices=[7, 3, 7]"],
            &["token 7 is named twice for `model.embed_tokens`"],
        ),
        (
            &["adapter.trainable_token_indices=[-1]"],
            &["adapter.trainable_token_indices.0: expected a whole number from 0"],
        ),
        (
            &["adapter.trainable_token_indices={q_proj: [1]}"],
            &["`q_proj` is neither the embedding nor the head"],
        ),
        (
            &["adapter.trainable_token_indices={lm_head: []}"],
            &["no tokens are named for `lm_head`"],
        ),
        (
            &[
                "adapter.target_modules=[embed_tokens]",
                "training.loraplus_lr_ratio=16",
            ],
            &["training.loraplus_lr_ratio does not go with an adapter of `model.embed_tokens`"],
        ),
        (
            &[
                qlora,
                "adapter.quantize_head=true",
                "adapter.modules_to_save=[lm_head]",
            ],
            &[
                "adapter.modules_to_save: `lm_head` trains in numbers on the device, and with \
                `quantize_head`",
                "hint: remove `quantize_head`",
            ],
        ),
        (
            &[
                qlora,
                "adapter.offload_embedding=true",
                "adapter.modules_to_save=[embed_tokens]",
            ],
            &[
                "adapter.modules_to_save: `model.embed_tokens` trains in numbers on the device, \
                and with `offload_embedding`",
            ],
        ),
        (
            &[
                "adapter.r=",
                "adapter.method=full",
                "adapter.modules_to_save=[lm_head]",
            ],
            &["adapter.modules_to_save does not go with `method: full`"],
        ),
        (
            &[
                "adapter.r=",
                "adapter.init_from=base",
                "adapter.trainable_token_indices=[1]",
            ],
            &["adapter.trainable_token_indices does not go with `init_from`"],
        ),
    ];
    for (words, parts) in cases {
        let ran = desk.run(&[&["check", "recipe.yaml"], words].concat());
        ran.says(&words.join(" "), 65, parts);
    }
    // Each by itself goes with a packed head or an embedding on the host: matrices beside what is
    // packed, rows in place of what is not.
    for words in [
        [
            qlora,
            "adapter.quantize_head=true",
            "adapter.target_modules=[q_proj, lm_head]",
            "output_dir=a",
        ],
        [
            qlora,
            "adapter.offload_embedding=true",
            "adapter.target_modules=[q_proj, embed_tokens]",
            "output_dir=b",
        ],
        [
            qlora,
            "adapter.offload_embedding=true",
            "adapter.trainable_token_indices=[84, 104]",
            "output_dir=c",
        ],
    ] {
        desk.run(&[&["train", "recipe.yaml"], &words[..]].concat())
            .says(&words.join(" "), 0, &[]);
    }
    // Turned off, a key says nothing.
    desk.run(&[
        "check",
        "recipe.yaml",
        "adapter.modules_to_save=[]",
        "adapter.trainable_token_indices=none",
    ])
    .says("off", 0, &[]);
}

/// huggingface/peft#2777: with `tie_word_embeddings` PEFT breaks the tie with a warning among
/// others; here it is said of the recipe.
#[test]
fn that_a_head_is_untied_is_said_before_training() {
    const SAID: &str = "note: the base has one table for its embedding and its head, and the \
        adapter changes them apart";
    let desk = desk("qwen2");
    let check = |words: &str| desk.run(&["check", "recipe.yaml", words]);
    for words in [
        "adapter.modules_to_save=[lm_head]",
        "adapter.target_modules=[q_proj, embed_tokens]",
        "adapter.trainable_token_indices={lm_head: [3]}",
    ] {
        check(words).says(words, 0, &[SAID, "`tie_word_embeddings: false`"]);
    }
    for words in [
        "adapter.trainable_token_indices=[3]",
        "adapter.target_modules=all-linear",
    ] {
        let ran = check(words);
        assert!(!ran.stderr.contains(SAID), "{words}: {}", ran.stderr);
    }
    let ran = desk.run(&[
        "check",
        "recipe.yaml",
        "adapter.modules_to_save=[lm_head]",
        "adapter.trainable_token_indices=[3]",
    ]);
    ran.says(
        "both",
        65,
        &[
            "the rows of the embedding are those of `lm_head` too, which is among \
            the `modules_to_save`",
        ],
    );
}

#[test]
fn formats_that_hold_matrices_of_layers_only_refuse_the_rest() {
    let desk = desk("llama");
    for (run, words) in [
        ("rows", "adapter.trainable_token_indices=[3]"),
        ("head", "adapter.target_modules=[q_proj, lm_head]"),
    ] {
        let output = format!("output_dir={run}");
        desk.run(&["train", "recipe.yaml", &output, words])
            .says(words, 0, &[]);
        let export = |to: &str| {
            let (adapter, out) = (format!("{run}/adapter"), format!("{run}-{to}"));
            desk.run(&[
                "export", &adapter, "--to", to, "--base", "base", "--out", &out,
            ])
        };
        let part = if run == "rows" {
            "is no low-rank matrix"
        } else {
            "`lm_head`"
        };
        for to in ["mlx", "gguf-adapter"] {
            export(to).says(to, 65, &[part]);
            assert!(!desk.path(&format!("{run}-{to}")).exists());
        }
        export("peft").says("peft", 0, &[]);
        let [ours, theirs] = [format!("{run}/adapter"), format!("{run}-peft")]
            .map(|folder| desk.read(&format!("{folder}/adapter_model.safetensors")));
        assert!(ours == theirs, "{run}");
        export("gguf").says("a merged model", 0, &[]);
    }
}
