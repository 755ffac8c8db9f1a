//! Special tokens by name and new tokens: numbers of transformers and PEFT
//! (`tests/golden/make_new_tokens.py`), and the way through the binary from recipe to adapter,
//! merged model and GGUF.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use common::{attach_peft, batch, committed, difference, json, load, logits};
use rankine::adapter::{peft, tensors};
use rankine::data::TokenRow;
use rankine::data::tokenize::Tokenizer;
use rankine::export::merge::{Addend, GgufNumbers, MergeRequest, Onto, OtherBase, merge};
use rankine::files::safetensors::Archive;
use rankine::model::{Decoder, Folder, shard_paths};
use rankine::plan::{Plan, Resolved};
use rankine::terms::ModelDtype;
use serde_json::{Value, json};
use support::{Desk, copy_folder, texts};

/// Rows of the bases.
const ROWS: usize = 304;
/// What tests allow between our logits and those of transformers and PEFT.
const BOUND: f32 = 5e-5;

const RECIPE: &str = "base_model: base
datasets:
  - path: notes.parquet
    format: text
tokens:
  end_of_turn: ['<|turn|>']
  add:
    - '<|note|>'
    - {token: '<|turn|>', from: t}
adapter:
  r: 4
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

/// A desk on the base of a family with rows that have the new tokens.
fn desk(family: &str) -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("base")).unwrap();
    copy_folder(
        &committed(&format!("archs/{family}/model")),
        &desk.path("base"),
    );
    let rows: Vec<String> = (1..=16)
        .map(|row| format!("<|note|>the term {row}<|turn|> means {}", "so ".repeat(row)))
        .collect();
    desk.write_rows("notes.parquet", vec![("text", texts(rows))]);
    desk.write("recipe.yaml", RECIPE);
    desk
}

fn plan(desk: &Desk, words: &[&str]) -> Box<Plan> {
    let path = |key: &str, name: &str| format!("{key}={}", desk.path(name).display());
    let mut all = vec![
        path("base_model", "base"),
        path("datasets.0.path", "notes.parquet"),
        path("output_dir", "planned"),
    ];
    all.extend(words.iter().map(|word| (*word).to_owned()));
    let recipe = rankine::recipe::read(&desk.path("recipe.yaml"), &all).unwrap();
    let Resolved::Plan(plan) = rankine::plan::resolve(recipe, None, &|_| {}).unwrap() else {
        panic!("the base is a folder")
    };
    plan
}

fn row(ids: &[u32]) -> Vec<TokenRow> {
    vec![TokenRow {
        ids: ids.to_vec(),
        trained: vec![true; ids.len()],
    }]
}

fn logits_of(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    logits(decoder, &batch(row(ids)))
}

/// A base with an adapter that brings a tokenizer.
fn adapted(base: &Path, adapter: &Path) -> (Decoder, Tokenizer) {
    let mut folder = Folder::open(base).unwrap();
    peft::resize(&mut folder, adapter).unwrap();
    let mut decoder = folder
        .load(ModelDtype::Auto, &Device::flex(), &|_| {})
        .unwrap();
    attach_peft(&mut decoder, adapter);
    (decoder, Tokenizer::open_with(base, Some(adapter)).unwrap())
}

/// A table of a folder, row by row.
fn table(folder: &Path, name: &str) -> Vec<Vec<f32>> {
    let archives = shard_paths(folder)
        .unwrap()
        .into_iter()
        .map(|path| Archive::open(&path).unwrap());
    let numbers = archives
        .into_iter()
        .find_map(|archive| archive.read_f32(name).unwrap())
        .unwrap();
    numbers.chunks(32).map(<[f32]>::to_vec).collect()
}

/// The rows of new tokens that an adapter starts with, by module.
fn fresh_rows(plan: &Plan, module: &str) -> Vec<Vec<f32>> {
    let decoder = plan
        .load_model(plan.storage, &Device::flex(), None, &|_| {})
        .unwrap();
    let named = tensors(&decoder, &decoder.numbers());
    let name = format!("base_model.model.{module}.token_adapter.trainable_tokens_delta");
    named
        .into_iter()
        .find(|(found, ..)| *found == name)
        .unwrap()
        .2
        .chunks(32)
        .map(<[f32]>::to_vec)
        .collect()
}

fn mean(table: &[Vec<f32>]) -> Vec<f32> {
    let sum = |column: usize| table.iter().map(|row| f64::from(row[column])).sum::<f64>();
    (0..32)
        .map(|column| (sum(column) / table.len() as f64) as f32)
        .collect()
}

#[test]
fn adapters_of_peft_with_new_tokens_have_pefts_logits_and_so_have_merged_models() {
    for (family, saved) in [
        ("llama", "adapter"),
        ("qwen2", "adapter"),
        ("qwen2", "adapter_with_tables"),
    ] {
        let (base, set) = (
            committed(&format!("archs/{family}/model")),
            committed(&format!("new_tokens/{family}")),
        );
        let (facts, golden) = (
            json(&set.join("golden.json")),
            Archive::open(&set.join("golden.safetensors")).unwrap(),
        );
        let ids: Vec<u32> = serde_json::from_value(facts["ids"].clone()).unwrap();
        let (expected, adapter) = (
            golden.read_f32("adapter").unwrap().unwrap(),
            set.join(saved),
        );
        let (decoder, tokenizer) = adapted(&base, &adapter);
        assert_eq!(
            tokenizer
                .ids(facts["text"].as_str().unwrap(), false)
                .unwrap(),
            ids,
            "{family}"
        );
        let ours = logits_of(&decoder, &ids);
        let off = difference(&ours, &expected);
        println!("{family}: {saved} {off:.1e}");
        assert!(off < BOUND, "{family}: {off}");

        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let adapters = vec![Addend {
            folder: adapter.clone(),
            weight: 1.0,
            trained_on: None,
        }];
        let order = MergeRequest {
            base: base.clone(),
            adapters,
            out: out.clone(),
            float: None,
            other_base: OtherBase::Refuse,
            onto: Onto::Stored,
            counts_q8_0: false,
            keeps_gguf: false,
            gguf: GgufNumbers::Own,
        };
        merge(&order, &AtomicBool::new(false), &|_| {}).unwrap();
        let off = difference(&logits_of(&load(&out), &ids), &expected);
        println!("{family}: merged {off:.1e}");
        assert!(off < BOUND, "{family}: merged {off}");
        assert_eq!(
            json(&out.join("config.json"))["vocab_size"],
            facts["rows"],
            "{family}"
        );
        assert_eq!(
            Tokenizer::open(&out)
                .unwrap()
                .ids(facts["text"].as_str().unwrap(), false)
                .unwrap(),
            ids
        );
        // Rows of which nothing trained are those of the base to the bit.
        let (old, new) = (
            table(&base, "model.embed_tokens.weight"),
            table(&out, "model.embed_tokens.weight"),
        );
        let same = old.iter().zip(&new).filter(|(old, new)| old == new).count();
        assert_eq!(
            (new.len(), same),
            (ROWS + 2, ROWS - 1),
            "{family}: one token of the base trained"
        );
    }
}

#[test]
fn new_rows_start_as_the_mean_and_as_a_copy_and_the_model_has_transformers_logits() {
    for (family, of_head) in [("llama", Some("lm_head.weight")), ("qwen2", None)] {
        let desk = desk(family);
        let plan = plan(&desk, &[]);
        let vocabulary = plan.vocabulary.as_ref().expect("tokens are added");
        assert_eq!(
            vocabulary.new,
            [("<|note|>".to_owned(), 304), ("<|turn|>".to_owned(), 305)]
        );
        assert_eq!(
            (vocabulary.grown_to, plan.model.spec.vocabulary),
            (Some(306), 306)
        );
        let copied = plan.encoder.tokenizer.token_to_id("t").unwrap() as usize;
        let tables = [("model.embed_tokens", "model.embed_tokens.weight")]
            .into_iter()
            .chain(of_head.map(|head| ("lm_head", head)));
        for (module, name) in tables {
            let (stored, fresh) = (table(&desk.path("base"), name), fresh_rows(&plan, module));
            assert_eq!(
                fresh,
                [mean(&stored), stored[copied].clone()],
                "{family}: {name}"
            );
        }
        let set = committed(&format!("new_tokens/{family}"));
        let (facts, golden) = (
            json(&set.join("golden.json")),
            Archive::open(&set.join("golden.safetensors")).unwrap(),
        );
        let ids: Vec<u32> = serde_json::from_value(facts["ids"].clone()).unwrap();
        assert_eq!(
            plan.encoder
                .tokenizer
                .ids(facts["text"].as_str().unwrap(), false)
                .unwrap(),
            ids,
            "{family}"
        );
        let decoder = plan
            .load_model(plan.storage, &Device::flex(), None, &|_| {})
            .unwrap();
        let off = difference(
            &logits_of(&decoder, &ids),
            &golden.read_f32("start").unwrap().unwrap(),
        );
        println!("{family}: start {off:.1e}");
        assert!(off < BOUND, "{family}: {off}");
    }
}

/// The array of whole numbers of a key of a GGUF file.
fn gguf_array(file: &[u8], key: &str) -> Vec<i32> {
    let at = file
        .windows(key.len())
        .position(|window| window == key.as_bytes())
        .unwrap()
        + key.len();
    let count = u64::from_le_bytes(file[at + 8..at + 16].try_into().unwrap()) as usize;
    file[at + 16..][..4 * count]
        .as_chunks()
        .0
        .iter()
        .map(|number| i32::from_le_bytes(*number))
        .collect()
}

/// The id of a key of a GGUF file.
fn gguf_id(file: &[u8], key: &str) -> u32 {
    let at = file
        .windows(key.len())
        .position(|window| window == key.as_bytes())
        .unwrap()
        + key.len()
        + 4;
    u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
}

#[test]
fn from_recipe_to_adapter_merged_model_and_gguf() {
    for (family, method) in [
        ("llama", "lora"),
        ("qwen2", "lora"),
        ("llama", "qlora"),
        ("qwen2", "qlora"),
    ] {
        let (desk, said) = (desk(family), format!("{method} on {family}"));
        let method = format!("adapter.method={method}");
        let ran = desk.run(&["train", "recipe.yaml", "output_dir=run", "--json", &method]);
        ran.says(
            &said,
            0,
            &[
                "tokens.add: new are `<|note|>` (304), `<|turn|>` (305); the \
                embedding gets 2 rows and has 306",
            ],
        );
        let result: Value = serde_json::from_str(&ran.stdout).unwrap();
        let best = result["eval_loss_best"].as_f64().unwrap();
        assert!(
            best < result["eval_loss_first"].as_f64().unwrap(),
            "{said}: {result}"
        );

        let tokenizer = Tokenizer::open(&desk.path("run/adapter")).unwrap();
        let ids = tokenizer.ids("<|note|>the term<|turn|>", false).unwrap();
        assert_eq!(
            (ids.first(), ids.last()),
            (Some(&304), Some(&305)),
            "{said}"
        );
        assert_eq!(
            tokenizer.decode(&[304, 305], true).unwrap(),
            "<|note|>",
            "an end of turn is special, {said}"
        );
        assert_eq!(tokenizer.eos_ids().first(), Some(&303), "{said}: eos stays");
        assert!(tokenizer.eos_ids().contains(&305), "{said}");
        assert!(
            desk.path("run/checkpoints/step-6/adapter/tokenizer.json")
                .exists(),
            "{said}"
        );

        let eval: Value =
            serde_json::from_str(&desk.run(&["eval", "run", "--json"]).stdout).unwrap();
        assert!(
            (eval["total"]["adapter"]["loss"].as_f64().unwrap() - best).abs() < 1e-9,
            "{said}: {eval}"
        );
        let generate = |of: &[&str]| {
            let ran = desk.run(
                &[
                    &[
                        "generate",
                        "--prompt",
                        "<|note|>the term",
                        "--max-tokens",
                        "6",
                    ],
                    of,
                ]
                .concat(),
            );
            ran.says("generate", 0, &[]);
            ran.stdout
        };
        let spoken = generate(&["--adapter", "run"]);
        let uncompared: &[&str] = if method.ends_with("qlora") {
            &["--uncompared"]
        } else {
            &[]
        };
        desk.run(
            &[
                &[
                    "merge",
                    "--adapter",
                    "run",
                    "--out",
                    "merged",
                    "--dtype",
                    "f32",
                ],
                uncompared,
            ]
            .concat(),
        )
        .says(&said, 0, &[]);
        if uncompared.is_empty() {
            assert_eq!(generate(&["--base", "merged"]), spoken, "{said}");
        }
        let (decoder, _) = adapted(&desk.path("base"), &desk.path("run/adapter"));
        let off = difference(
            &logits_of(&load(&desk.path("merged")), &ids),
            &logits_of(&decoder, &ids),
        );
        assert!(off < BOUND, "{said}: {off}");
        assert_eq!(
            json(&desk.path("merged/config.json"))["vocab_size"],
            json!(306),
            "{said}"
        );
        let [ends, of_adapter] = ["merged", "run/adapter"]
            .map(|folder| json(&desk.path(folder).join("generation_config.json")));
        assert_eq!(ends["eos_token_id"], of_adapter["eos_token_id"], "{said}");
        let (old, new) = (
            table(&desk.path("base"), "model.embed_tokens.weight"),
            table(&desk.path("merged"), "model.embed_tokens.weight"),
        );
        assert!(
            new.len() == ROWS + 2 && new[..ROWS] == old[..],
            "{said}: rows of the base's tokens are the base's"
        );

        desk.run(&[
            "export",
            "run",
            "--to",
            "gguf",
            "--dtype",
            "f32",
            "--out",
            "model.gguf",
        ])
        .says(&said, 0, &[]);
        let file = desk.read("model.gguf");
        let kinds = gguf_array(&file, "tokenizer.ggml.token_type");
        assert_eq!(
            (kinds.len(), &kinds[304..]),
            (306, &[4, 3][..]),
            "user-defined and control, {said}"
        );
        assert!(
            ["<|note|>", "<|turn|>"]
                .iter()
                .all(|token| file.windows(8).any(|window| window == token.as_bytes())),
            "{said}"
        );
        assert_eq!(
            gguf_id(&file, "tokenizer.ggml.eot_token_id"),
            305,
            "{said}: llama.cpp stops there"
        );
        desk.run(&["export", "run", "--to", "peft", "--out", "shared"])
            .says(&said, 0, &[]);
        assert!(
            desk.read("shared/tokenizer.json") == desk.read("run/adapter/tokenizer.json"),
            "{said}"
        );
        let card = desk.read_text("run/README.md");
        assert!(
            card.contains("base.resize_token_embeddings(306, mean_resizing=False)"),
            "{said}: {card}"
        );
        assert!(
            card.contains("AutoTokenizer.from_pretrained(\"ADAPTER\")"),
            "{said}: {card}"
        );
    }
}

#[test]
fn a_run_that_is_resumed_comes_to_the_same_bytes() {
    for (family, words) in [
        ("llama", &["adapter.method=qlora"][..]),
        ("qwen2", &[][..]),
        (
            "qwen2",
            &[
                "adapter.r=",
                "adapter.method=full",
                "training.learning_rate=1e-3",
            ][..],
        ),
        (
            "llama",
            &["adapter.modules_to_save=[embed_tokens, lm_head]"][..],
        ),
    ] {
        let desk = desk(family);
        desk.run(&[&["train", "recipe.yaml", "output_dir=run"], words].concat())
            .says("train", 0, &[]);
        fs::create_dir_all(desk.path("half/checkpoints")).unwrap();
        for file in ["recipe.lock.yaml", "metrics.jsonl"] {
            desk.write(&format!("half/{file}"), desk.read(&format!("run/{file}")));
        }
        copy_folder(
            &desk.path("run/checkpoints/step-2"),
            &desk.path("half/checkpoints/step-2"),
        );
        desk.run(&["resume", "half"])
            .says("resume", 0, &["going on after step 2"]);
        let product = if desk.path("run/model").exists() {
            "model"
        } else {
            "adapter"
        };
        for file in fs::read_dir(desk.path("run").join(product))
            .unwrap()
            .map(|file| file.unwrap().file_name())
        {
            let name = file.to_str().unwrap();
            // A card tells of its run.
            if desk.path("run").join(product).join(name).is_file() && name != "README.md" {
                let [whole, resumed] =
                    ["run", "half"].map(|run| desk.read(&format!("{run}/{product}/{name}")));
                assert!(whole == resumed, "{family} {words:?}: {name}");
            }
        }
    }
}

#[test]
fn all_weights_and_whole_tables_train_with_new_tokens_too() {
    let desk = desk("qwen2");
    let full = [
        "train",
        "recipe.yaml",
        "output_dir=full",
        "adapter.r=",
        "adapter.method=full",
        "training.learning_rate=1e-3",
    ];
    desk.run(&full)
        .says("full", 0, &["the embedding gets 2 rows"]);
    let config = json(&desk.path("full/model/config.json"));
    assert_eq!(
        (&config["vocab_size"], &config["eos_token_id"]),
        (&json!(306), &json!([303, 305]))
    );
    assert_eq!(
        Tokenizer::open(&desk.path("full/model"))
            .unwrap()
            .token_to_id("<|turn|>"),
        Some(305)
    );
    desk.run(&[
        "generate",
        "--base",
        "full/model",
        "--prompt",
        "<|note|>",
        "--max-tokens",
        "2",
    ])
    .says("generate", 0, &[]);
    desk.run(&["eval", "full", "--json"]).says("eval", 0, &[]);

    let whole = [
        "train",
        "recipe.yaml",
        "output_dir=whole",
        "adapter.modules_to_save=[embed_tokens, lm_head]",
        "--json",
    ];
    let result: Value = serde_json::from_str(&desk.run(&whole).stdout).unwrap();
    let config = json(&desk.path("whole/adapter/adapter_config.json"));
    assert_eq!(config["trainable_token_indices"], Value::Null);
    let next = [
        "train",
        "recipe.yaml",
        "output_dir=next",
        "adapter.r=",
        "adapter.init_from=whole/adapter",
        "--json",
    ];
    let ran = desk.run(&next);
    ran.says("going on", 0, &["it brings a tokenizer of its own"]);
    let first = serde_json::from_str::<Value>(&ran.stdout).unwrap()["eval_loss_first"]
        .as_f64()
        .unwrap();
    assert!(
        (first - result["eval_loss_best"].as_f64().unwrap()).abs() < 1e-9,
        "{result}"
    );
    assert!(desk.read("next/adapter/tokenizer.json") == desk.read("whole/adapter/tokenizer.json"));
    desk.run(&["merge", "--adapter", "next", "--out", "merged"])
        .says("merge", 0, &[]);
    assert_eq!(
        json(&desk.path("merged/config.json"))["vocab_size"],
        json!(306)
    );
}

/// The base with one token less in its tokenizer: its last row is spare.
fn spare_row(desk: &Desk) {
    let tokenizer = desk.path("base/tokenizer.json");
    let mut file = json(&tokenizer);
    file["added_tokens"]
        .as_array_mut()
        .unwrap()
        .retain(|token| token["id"] != 303);
    fs::write(&tokenizer, file.to_string()).unwrap();
    desk.edit(
        "base/tokenizer_config.json",
        "\"eos_token\": \"<|eot_id|>\"",
        "\"eos_token\": \"<|end_of_text|>\"",
    );
    desk.edit(
        "base/generation_config.json",
        "\"eos_token_id\": 303",
        "\"eos_token_id\": 299",
    );
}

#[test]
fn rows_that_no_token_has_are_used_before_the_embedding_grows() {
    let desk = desk("llama");
    spare_row(&desk);
    let words = ["tokens.end_of_turn=", "tokens.add=['<|note|>']"];
    let plan = plan(&desk, &words);
    let vocabulary = plan.vocabulary.as_ref().expect("a token is added");
    assert_eq!(
        (vocabulary.new.clone(), vocabulary.grown_to),
        (vec![("<|note|>".to_owned(), 303)], None)
    );
    assert_eq!(
        fresh_rows(&plan, "lm_head"),
        [mean(&table(&desk.path("base"), "lm_head.weight"))]
    );
    desk.run(&[&["train", "recipe.yaml", "output_dir=run"], &words[..]].concat()).says(
        "train",
        0,
        &["1 of the rows that no token of the base has become theirs, the embedding keeps its 304 \
            rows"],
    );
    desk.run(&["merge", "--adapter", "run", "--out", "merged"])
        .says("merge", 0, &[]);
    assert_eq!(
        json(&desk.path("merged/config.json"))["vocab_size"],
        json!(304)
    );
    assert!(
        desk.read_text("run/README.md")
            .contains("PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained")
    );
    // One more than there is room for.
    let both = ["tokens.end_of_turn=", "tokens.add=['<|note|>', '<|turn|>']"];
    let ran = desk.run(&[&["check", "recipe.yaml"], &both[..]].concat());
    ran.says(
        "both",
        0,
        &[
            "1 rows that no token of the base has become theirs, and the embedding \
            gets 1 more and has 305",
        ],
    );
}

#[test]
fn special_tokens_by_name_reach_templates_rows_stops_and_files() {
    let desk = desk("llama");
    let words = [
        "tokens.eos=<|end_of_text|>",
        "tokens.pad=<|pad|>",
        "tokens.bos=<|start_header_id|>",
        "tokens.unk=<|end_header_id|>",
        "tokens.end_of_turn=['<|turn|>']",
        "tokens.add=['<|note|>', '<|turn|>', '<|pad|>']",
        "chat_template=template.jinja",
    ];
    desk.write(
        "template.jinja",
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    );
    let plan = plan(
        &desk,
        &[
            &words[..6],
            &[&*format!(
                "chat_template={}",
                desk.path("template.jinja").display()
            )],
        ]
        .concat(),
    );
    let special = plan.encoder.tokenizer.special();
    let named = [&special.bos, &special.eos, &special.pad, &special.unk]
        .map(|token| token.as_deref().unwrap());
    assert_eq!(
        named,
        [
            "<|start_header_id|>",
            "<|end_of_text|>",
            "<|pad|>",
            "<|end_header_id|>"
        ]
    );
    assert_eq!(plan.encoder.tokenizer.eos_ids(), [299, 305, 303]);
    desk.run(&[&["train", "recipe.yaml", "output_dir=run"], &words[..]].concat())
        .says("train", 0, &[]);
    let config = json(&desk.path("run/adapter/tokenizer_config.json"));
    assert_eq!(
        (&config["eos_token"], &config["pad_token"]),
        (&json!("<|end_of_text|>"), &json!("<|pad|>"))
    );
    let generation = json(&desk.path("run/adapter/generation_config.json"));
    assert_eq!(
        (&generation["eos_token_id"], &generation["pad_token_id"]),
        (&json!([299, 305, 303]), &json!(306))
    );
    assert!(
        desk.read_text("run/adapter/chat_template.jinja")
            .starts_with("{{ bos_token }}{% for m")
    );
    let shown = desk.run(&["preview", "recipe.yaml", words[0], words[4], "-n", "1"]);
    assert!(shown.stdout.contains("<|end_of_text|>"), "{shown:?}");
    desk.run(&["merge", "--adapter", "run", "--out", "merged"])
        .says("merge", 0, &[]);
    let config = json(&desk.path("merged/config.json"));
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id", "vocab_size"]
        .map(|key| config[key].clone());
    assert_eq!(
        ids,
        [json!(301), json!([299, 305, 303]), json!(306), json!(307)]
    );
}

#[test]
fn what_cannot_be_is_refused_with_both_sides_and_the_next_step() {
    let llama = desk("llama");
    let cases: [(&[&str], &[&str]); 9] = [
        (
            &["tokens.eos=<|nothing|>"],
            &[
                "tokens.eos: `<|nothing|>` is neither in the vocabulary of base `base` nor in \
                `tokens.add`",
                "add it with `tokens: {add: [\"<|nothing|>\"]}`",
            ],
        ),
        (&["tokens.pad=<|eot_id|"], &["did you mean `<|eot_id|>`?"]),
        (
            &["tokens.end_of_turn=['<|x|>']"],
            &["tokens.end_of_turn: `<|x|>` is neither"],
        ),
        (
            &["tokens.add=['<|turn|>', '<|turn|>']"],
            &["tokens.add: `<|turn|>` is named twice"],
        ),
        (
            &["tokens.add=['<|turn|>', {token: '<|a|>', from: '<|b|>'}]"],
            &["tokens.add: `from` is `<|b|>`, which has no row in base `base`"],
        ),
        (
            &["tokens.add=['<|turn|>', {from: t}]"],
            &["missing key `token` in `tokens.add.1`"],
        ),
        (
            &["adapter.target_modules=[q_proj, lm_head]"],
            &[
                "`lm_head` has low-rank matrices by `target_modules`",
                "hint: leave it out of `target_modules`",
            ],
        ),
        (
            &["adapter.method=qlora", "adapter.quantize_head=true"],
            &["`lm_head` trains in numbers on the device, and with `quantize_head`"],
        ),
        (
            &["adapter.trainable_token_indices=[306]"],
            &["token 306 has no row in `model.embed_tokens`, which has 306"],
        ),
    ];
    for (words, parts) in cases {
        llama
            .run(&[&["check", "recipe.yaml"], words].concat())
            .says(&words.join(" "), 65, parts);
    }
    let tied = desk("qwen2");
    let ran = tied.run(&["check", "recipe.yaml", "adapter.modules_to_save=[lm_head]"]);
    ran.says(
        "one of two",
        65,
        &[
            "embedding and head are one table in the base",
            "`modules_to_save: [embed_tokens, lm_head]`",
        ],
    );
    tied.run(&["train", "recipe.yaml", "output_dir=run"])
        .says("train", 0, &[]);
    let more = "tokens.add=['<|note|>', '<|turn|>', '<|more|>']";
    let ran = tied.run(&[
        "check",
        "recipe.yaml",
        "adapter.r=",
        "adapter.init_from=run/adapter",
        more,
    ]);
    ran.says(
        "more than the adapter has",
        65,
        &[
            "the adapter has no row for `<|more|>`, id 306",
            "`rankine merge`",
        ],
    );
}

#[test]
fn what_is_there_what_is_unused_and_who_rejects_it_is_said() {
    let desk = desk("llama");
    let add = "tokens.add=['<|turn|>', '<|eot_id|>', '<|unused|>']";
    let ran = desk.run(&["check", "recipe.yaml", add]);
    ran.says(
        "check",
        0,
        &[
            "`<|eot_id|>` is in the base's vocabulary, id 303, and is used as it is; its row \
            trains with `adapter.trainable_token_indices: [303]`",
            "vLLM takes no rows of tokens in an adapter",
        ],
    );
    desk.run(&["plan", "recipe.yaml", add]).says(
        "plan",
        0,
        &["tokens.add: `<|unused|>` do not occur in the rows"],
    );
    let ran = desk.run(&["check", "recipe.yaml", "--for", "vllm"]);
    ran.says(
        "vLLM",
        65,
        &[
            "error: vLLM takes no rows of tokens",
            "hint: give it the model that `rankine merge` writes",
        ],
    );
    let ran = desk.run(&["check", "recipe.yaml", "--for", "llamacpp"]);
    ran.says(
        "llama.cpp",
        65,
        &[
            "error: llama.cpp takes no rows of tokens",
            "`rankine export ADAPTER --to gguf",
        ],
    );
    for consumer in ["ollama", "lmstudio", "peft"] {
        desk.run(&["check", "recipe.yaml", "--for", consumer])
            .says(consumer, 0, &[]);
    }
    desk.run(&["train", "recipe.yaml", "output_dir=run"])
        .says("train", 0, &[]);
    desk.run(&[
        "export", "run", "--to", "peft", "--out", "shared", "--for", "vllm",
    ])
    .says("vLLM", 65, &["`rankine merge`"]);
    desk.run(&["export", "run", "--to", "gguf-adapter", "--out", "a.gguf"])
        .says("llama.cpp", 65, &["`rankine merge`"]);
}
