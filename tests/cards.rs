//! Cards: what is passed on says what it is, whose license it is under and how it is loaded, and
//! nothing of the machine it was made on.

mod support;

use std::fs;
use std::path::Path;

use rankine::adapter::LoraConfig;
use rankine::export::card::{Base, Card, CardSubject, HubPlace, Trained, TrainedPart, card};
use rankine::files::hash_bytes;
use rankine::files::license::License;
use serde_json::{Map, Value, json};
use support::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn adapter(rank: usize) -> LoraConfig {
    LoraConfig::all_linear(rank, 2.0 * rank as f64)
}

/// A run on a file of a folder and on one of the Hub's cache.
fn run() -> Trained {
    let cached = format!(
        "/home/alice/.cache/huggingface/hub/datasets--law--cases/snapshots/{COMMIT}/data/a.parquet"
    );
    let lock = json!({
        "rankine": "0.1.0",
        "working_directory": "/home/alice/work",
        "recipe_file": "/home/alice/r.yaml",
        "device": "cpu",
        "threads": 2,
        "recipe": {
            "base_model": "/home/alice/base",
            "output_dir": "/home/alice/run",
            "chat_template": "/home/alice/t.jinja",
            "datasets": [
                {"path": "/home/alice/rows.parquet", "format": "chat", "train_on": "assistant"},
            ],
            "adapter": {"r": 32, "init_from": "/home/alice/first/adapter"},
            "training": {"learning_rate": 2e-4},
            "evaluation": {
                "val_set_size": 0.05,
                "prompts": ["Alice has anaemia"],
                "datasets": [{"path": "/home/alice/v.parquet"}],
            },
        },
        "set_by": {"adapter.r": "recipe, line 6", "adapter.init_from": "override"},
        "data": [{
            "dataset": "datasets.0",
            "rows": 3828,
            "trained": 3636,
            "validation": 191,
            "left_out": 1,
            "files": [
                {
                    "path": "/home/alice/rows.parquet",
                    "license": {"id": "cc-by-4.0", "name": null, "link": null},
                    "said_in": "README.md",
                    "notices": [],
                },
                {"path": cached, "license": null, "said_in": null, "notices": ["LICENSE"]},
                {"path": "c.parquet", "license": null, "said_in": null, "notices": []},
            ],
        }],
        "blake3": {
            "base": {"/home/alice/base/model.safetensors": "b0"},
            "datasets": {"/home/alice/rows.parquet": "d0"},
        },
    });
    let result = json!({
        "run": "/home/alice/run",
        "steps": 1200,
        "tokens": 345_678,
        "loss": 1.5,
        "eval_loss_first": 2.5,
        "eval_loss_best": 1.25,
        "best_step": 1100,
    });
    Trained {
        lock: object(lock),
        result: Some(object(result)),
    }
}

fn base() -> Base {
    Base {
        name: "law/base-1b".to_owned(),
        hub: Some(HubPlace {
            id: "law/base-1b".to_owned(),
            commit: COMMIT.to_owned(),
        }),
        model: Some("2 layers of width 32".to_owned()),
        license: Some(License {
            id: "other".to_owned(),
            name: Some("llama3.2".to_owned()),
            link: Some("LICENSE.txt".to_owned()),
        }),
        notices: vec!["LICENSE.txt".to_owned(), "USE_POLICY.md".to_owned()],
    }
}

fn of(subject: CardSubject) -> Card {
    let part = TrainedPart {
        config: Some(adapter(32)),
        run: Some(run()),
        ..TrainedPart::default()
    };
    let hashes = vec![(
        "adapter_model.safetensors".to_owned(),
        hash_bytes(b"weights"),
    )];
    Card {
        subject,
        base: base(),
        about: Vec::new(),
        parts: vec![part],
        hashes,
    }
}

/// The values between the fences.
fn head(card: &str) -> Map<String, Value> {
    let (head, _) = card
        .strip_prefix("---\n")
        .unwrap()
        .split_once("\n---\n")
        .unwrap();
    serde_yaml::from_str(head).unwrap_or_else(|error| panic!("{error}: {head}"))
}

fn usage(card: &str) -> &str {
    let from = card.find("## How to load it").unwrap();
    &card[from..card.find("## Hashes").unwrap()]
}

#[test]
fn the_card_of_an_adapter() {
    let text = card(&of(CardSubject::Adapter));
    assert!(!text.to_lowercase().contains("alice"), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn each_subject_has_its_own_commands() {
    let file = || "model.gguf".to_owned();
    let subjects = [
        CardSubject::Model,
        CardSubject::Gguf {
            file: file(),
            is_quantized: true,
        },
        CardSubject::GgufAdapter {
            file: "adapter.gguf".to_owned(),
        },
        CardSubject::Mlx,
        CardSubject::Ollama { file: file() },
    ];
    let text = subjects.map(|subject| {
        let text = card(&of(subject));
        format!(
            "{}\n{}",
            text.lines().find(|line| line.starts_with("# ")).unwrap(),
            usage(&text)
        )
    });
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn the_head_says_what_the_hub_understands() {
    let of_head = |subject| Value::Object(head(&card(&of(subject))));
    let gguf = |is_quantized| {
        of(CardSubject::Gguf {
            file: "m.gguf".to_owned(),
            is_quantized,
        })
    };
    let adapter = of_head(CardSubject::Adapter);
    assert_eq!(
        adapter,
        json!({
            "license": "other",
            "license_name": "llama3.2",
            "license_link": "LICENSE.txt",
            "base_model": "law/base-1b",
            "base_model_relation": "adapter",
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": ["lora", "rankine"],
            "datasets": ["law/cases"],
        })
    );
    assert_eq!(
        (
            &of_head(CardSubject::Model)["base_model_relation"],
            &of_head(CardSubject::Model)["library_name"]
        ),
        (&json!("finetune"), &json!("transformers"))
    );
    let relation = |of: Card| head(&card(&of)).get("base_model_relation").cloned();
    let untrained = |of: Card| Card {
        parts: Vec::new(),
        ..of
    };
    assert_eq!(
        [gguf(true), gguf(false)].map(relation),
        [Some(json!("finetune")), Some(json!("finetune"))]
    );
    assert_eq!(
        [gguf(true), gguf(false)].map(untrained).map(relation),
        [Some(json!("quantized")), None]
    );
    // A folder is no repository of the Hub, whatever it is called.
    let mut local = of(CardSubject::Adapter);
    local.base = Base {
        license: Some(License {
            id: "apache-2.0".to_owned(),
            name: None,
            link: None,
        }),
        ..Base::named("law/base-1b")
    };
    let head = head(&card(&local));
    assert_eq!(
        (
            head.get("base_model"),
            &head["license"],
            head.get("license_name")
        ),
        (None, &json!("apache-2.0"), None)
    );
}

#[test]
fn ranks_that_vllm_does_not_take_by_itself_are_said() {
    let command = |rank: usize| {
        let mut of = of(CardSubject::Adapter);
        of.parts[0].config = Some(adapter(rank));
        let text = card(&of);
        text.lines()
            .find(|line| line.contains("--max-lora-rank ") && line.starts_with("vllm"))
            .map(str::to_owned)
    };
    for (rank, said) in [
        (4, " 16 "),
        (16, " 16 "),
        (17, " 32 "),
        (200, " 256 "),
        (512, " 512 "),
    ] {
        assert!(
            command(rank)
                .unwrap()
                .contains(&format!("--max-lora-rank{said}")),
            "{rank}: {:?}",
            command(rank)
        );
    }
    assert_eq!(command(513), None);
}

#[test]
fn names_from_outside_are_shown_and_not_obeyed() {
    let evil = "x`\n# Buy <script>alert(1)</script> [y](http://z) | \u{202e}\u{1b}[2J \
        ---\nlicense: mit";
    let mut of = of(CardSubject::Gguf {
        file: format!("{evil}.gguf"),
        is_quantized: false,
    });
    of.base = Base {
        name: evil.to_owned(),
        license: Some(License {
            id: evil.to_owned(),
            name: Some(evil.to_owned()),
            link: Some(evil.to_owned()),
        }),
        notices: vec![evil.to_owned()],
        ..Base::default()
    };
    let run = of.parts[0].run.as_mut().unwrap();
    run.lock["recipe"]["adapter"] = json!({ "target_modules": evil, "r": evil });
    run.lock["set_by"] = json!({"adapter.r": evil});
    run.lock["device"] = json!(evil);
    run.lock["data"][0]["dataset"] = json!(evil);
    for key in ["path", "said_in"] {
        run.lock["data"][0]["files"][0][key] = json!(evil);
    }
    run.lock["blake3"]["base"] = json!({ evil: evil });
    of.parts[0].name = Some(evil.to_owned());
    of.hashes.push((evil.to_owned(), hash_bytes(b"")));
    let text = card(&of);
    assert!(!text.contains(['\u{202e}', '\u{1b}']), "{text}");
    assert!(
        text.lines()
            .all(|line| !line.starts_with("# Buy") && line != "license: mit"),
        "{text}"
    );
    assert_eq!(head(&text)["license"], "other");
    let tables = text.lines().filter(|line| line.starts_with("| "));
    for line in tables {
        assert_eq!(line.replace("\\|", "").matches('|').count(), 4, "{line}");
    }
    // Outside code, which is between fences of the same length, there is none of it.
    for line in text.lines().filter(|line| line.contains("<script>")) {
        let is_code = line.contains("`` x`␊")
            || line.starts_with("license")
            || line.contains("./x`␊")
            || line.contains("gguf_file=");
        assert!(is_code, "{line}");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_lock_of_another_shape_is_no_fault() {
    for lock in [
        json!({}),
        json!({"data": 1, "recipe": [], "blake3": "x", "set_by": 2}),
        json!({"data": [1, {"files": [2, {}]}]}),
    ] {
        let run = Trained {
            lock: object(lock),
            result: Some(object(json!({"loss": "x"}))),
        };
        let mut of = of(CardSubject::Adapter);
        of.parts[0].run = Some(run);
        assert!(card(&of).contains("## Data"));
    }
}

/// A desk whose base and data say what they may be used for.
fn licensed() -> Desk {
    let desk = Desk::new();
    desk.write(
        "base/README.md",
        "---\nlicense: apache-2.0\n---\n# A base\n",
    );
    desk.write("base/LICENSE", "the base's license");
    fs::create_dir(desk.path("rows")).unwrap();
    fs::rename(desk.path("rows.parquet"), desk.path("rows/rows.parquet")).unwrap();
    desk.write("rows/README.md", "---\nlicense: cc-by-4.0\n---\n");
    desk.write("rows/LICENSE-DATA", "the data's license");
    desk.edit("recipe.yaml", "path: rows.parquet", "path: rows");
    desk
}

/// No part of the desk's own path, and no other absolute one, stands in a text.
fn tells_no_place(desk: &Desk, text: &str) {
    let place = desk.path("").canonicalize().unwrap();
    let own = place.file_name().unwrap().to_str().unwrap();
    assert!(
        !text.contains(own)
            && !text.contains(env!("CARGO_MANIFEST_DIR"))
            && !text.contains("/tmp/"),
        "{text}"
    );
}

#[test]
fn a_run_its_merge_and_its_exports_have_cards_and_licenses() {
    let desk = licensed();
    let absolute = |key: &str, name: &str| format!("{key}={}", desk.path(name).display());
    let overrides = [
        absolute("base_model", "base"),
        absolute("datasets.0.path", "rows"),
        absolute("output_dir", "run"),
    ];
    let train = [
        "train",
        "recipe.yaml",
        "evaluation.val_set_size=3",
        &overrides[0],
        &overrides[1],
        &overrides[2],
    ];
    desk.run(&train).says("train", 0, &[]);
    let run = desk.read_text("run/README.md");
    for said in [
        "license `cc-by-4.0`, as `README.md` states; beside it `LICENSE-DATA`",
        "- `datasets.0` (`text`, trains `all`): 12 rows read, 9 trained on, 3 held out, 0 left out",
        "`apache-2.0`, as the base's README.md states; its text, taken along: `LICENSE`",
        "| `adapter.r` | `4` | `recipe, line 6` |",
        "| `evaluation.val_set_size` | `3` | `override` |",
        "Held-out rows before training: ",
        "perplexity ",
    ] {
        assert!(run.contains(said), "`{said}` is not in {run}");
    }
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let hash = hash_bytes(&desk.read(&format!("run/adapter/{name}"))).to_string();
        assert!(run.contains(&format!("- `{name}`: `{hash}`")), "{name}");
    }
    let export = |from: &str, to: &str, out: &str| {
        desk.run(&["export", from, "--to", to, "--out", out, "--json"])
    };
    desk.run(&[
        "merge",
        "--adapter",
        "run/adapter",
        "--base",
        "base",
        "--out",
        "merged",
    ])
    .says("merge", 0, &[]);
    export("merged", "gguf", "model/").says("gguf", 0, &[]);
    desk.run(&[
        "export",
        "run/adapter",
        "--base",
        "base",
        "--to",
        "gguf-adapter",
        "--out",
        "lora/",
    ])
    .says("adapter", 0, &[]);
    for folder in ["run", "merged", "model", "lora"] {
        let text = desk.read_text(&format!("{folder}/README.md"));
        tells_no_place(&desk, &text);
        assert_eq!(head(&text)["license"], "apache-2.0", "{folder}: {text}");
        assert_eq!(
            desk.read_text(&format!("{folder}/LICENSE")),
            "the base's license",
            "{folder}"
        );
        assert!(text.contains("## How to load it"), "{folder}");
    }
    for folder in ["merged", "lora"] {
        let text = desk.read_text(&format!("{folder}/README.md"));
        assert!(
            text.contains("license `cc-by-4.0`") && text.contains("perplexity "),
            "{folder}: {text}"
        );
    }
    assert_eq!(
        desk.read("model/MODEL_CARD.md"),
        desk.read("merged/README.md")
    );
    assert!(desk.path("lora/adapter.gguf").is_file() && desk.path("model/model.gguf").is_file());
    export("merged", "gguf", "model/").says("again", 73, &["`model/` exists"]);
    export("merged", "gguf", "alone.gguf").says("a file", 0, &[]);
    assert!(desk.path("alone.gguf").is_file());
}

#[test]
fn a_merged_model_keeps_the_license_when_it_is_a_base_again() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.run(&["merge", "--adapter", "run/adapter", "--out", "merged"])
        .says("merge", 0, &[]);
    assert_eq!(
        head(&desk.read_text("merged/README.md"))["license_name"],
        "not-stated"
    );
    desk.run(&[
        "train",
        "recipe.yaml",
        "base_model=merged",
        "output_dir=second",
    ])
    .says("train", 0, &[]);
    assert!(
        desk.read_text("second/README.md")
            .contains("not stated in the base's folder")
    );
}

#[test]
fn licenses_of_a_run_go_with_it_and_those_of_others_stay() {
    let desk = licensed();
    fs::create_dir(desk.path("run")).unwrap();
    desk.write("run/LICENSE", "mine");
    let refused = [
        "`run/LICENSE` is there and is not the license of the base",
        "choose another `output_dir`",
    ];
    desk.run(&["train", "recipe.yaml"])
        .says("another license", 73, &refused);
    assert_eq!(desk.read_text("run/LICENSE"), "mine");
    desk.remove("run/LICENSE");
    desk.write("run/NOTICE", "mine");
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    // Another base without that license.
    desk.remove("base/LICENSE");
    desk.run(&["train", "recipe.yaml", "--overwrite"])
        .says("train", 0, &[]);
    assert!(
        !desk.path("run/LICENSE").exists(),
        "the license of the older run's base"
    );
    assert_eq!(desk.read_text("run/NOTICE"), "mine");

    fs::write(desk.path("base/LICENSE"), vec![b'x'; 5 << 20]).unwrap();
    desk.run(&["train", "recipe.yaml", "--overwrite"]).says(
        "too large",
        74,
        &["larger than 4 MiB is not taken along"],
    );
    assert!(
        desk.path("run/adapter").exists(),
        "the older run is still there"
    );
}

#[test]
fn a_card_is_the_same_each_time() {
    let desk = licensed();
    for run in ["a", "b"] {
        let words = [
            "train",
            "recipe.yaml",
            "evaluation.val_set_size=3",
            "output.save_steps=1",
            &format!("output_dir={run}"),
        ];
        desk.run(&words).says(run, 0, &[]);
    }
    let card = desk.read("a/README.md");
    assert!(card == desk.read("b/README.md"), "two runs");
    // Resumed from its last checkpoint, with the lock's lines in place of the recipe's.
    desk.remove("b/README.md");
    desk.run(&["resume", "b"]).says("resume", 0, &[]);
    assert!(
        card == desk.read("b/README.md"),
        "{}",
        desk.read_text("b/README.md")
    );
    assert!(Path::new(&desk.path("b/LICENSE")).is_file());
}
