//! Merges of adapters that were trained on packed bases: each way is scored against the model that
//! was trained, the closest is taken, and none that is too far.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use common::json;
use rankine::data::{Batch, Packing, TokenRow};
use rankine::files::safetensors::{Archive, Named, write_f32};
use rankine::model::{Folder, Storage};
use rankine::plan::Resolved;
use rankine::quant::QuantFormat;
use rankine::terms::ModelDtype;
use serde_json::Value;
use support::{Desk, RECIPE};

/// A desk whose run trained on its base in NF4, with rows held out.
fn trained(change: impl FnOnce(&Desk)) -> Desk {
    let desk = Desk::new();
    change(&desk);
    let recipe = RECIPE
        .replace("  r: 4\n", "  method: qlora\n  r: 4\n")
        .replace(
            "  max_steps: 2\n",
            "  max_steps: 8\n  learning_rate: 1e-2\n",
        );
    desk.write(
        "recipe.yaml",
        format!("{recipe}evaluation:\n  val_set_size: 4\n"),
    );
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk
}

fn merge(desk: &Desk, options: &[&str]) -> support::Ran {
    desk.run(
        &[
            &["merge", "--adapter", "run/adapter", "--out", "merged"],
            options,
        ]
        .concat(),
    )
}

fn report(desk: &Desk) -> Value {
    json(&desk.path("merged/merge-report.json"))
}

fn of(report: &Value, into: &str) -> Value {
    let merges = report["merges"].as_array().unwrap();
    merges
        .iter()
        .find(|merge| merge["into"] == into)
        .unwrap_or_else(|| panic!("{into} in {report}"))
        .clone()
}

/// Rewrites the tensors of a file of f32.
fn edit(path: &Path, change: impl Fn(&str, &mut Vec<f32>)) {
    let archive = Archive::open(path).unwrap();
    let tensors: Vec<Named> = archive
        .shapes()
        .into_iter()
        .map(|(name, shape)| {
            let mut numbers = archive.read_f32(&name).unwrap().unwrap();
            change(&name, &mut numbers);
            (name, shape, numbers)
        })
        .collect();
    drop(archive);
    write_f32(path, &tensors, &[("format", "pt".to_owned())]).unwrap();
}

/// One number in 64 is some hundred times the others, so that of those 4 bits keep next to nothing.
fn with_outliers(desk: &Desk) {
    edit(&desk.path("base/model.safetensors"), |name, numbers| {
        if name.contains("proj") {
            numbers
                .iter_mut()
                .step_by(64)
                .for_each(|number| *number = 3.0_f32.copysign(*number));
        }
    });
}

/// The rows that the run holds out.
fn held_out(desk: &Desk) -> Vec<Batch> {
    let overrides = ["base_model=base", "datasets.0.path=rows.parquet"].map(|pair| {
        let (key, name) = pair.split_once('=').unwrap();
        format!("{key}={}", desk.path(name).display())
    });
    let recipe = rankine::recipe::read(&desk.path("recipe.yaml"), &overrides).unwrap();
    let Resolved::Plan(plan) = rankine::plan::resolve(recipe, None, &|_| {}).unwrap() else {
        panic!("the base is a folder")
    };
    let data = plan.read_data(&|_| {}).unwrap();
    let rows = data.rows();
    rows.validation
        .iter()
        .flat_map(|rows| rows.batches(2, Packing::Off))
        .collect()
}

fn log_softmax(logits: &[f32], vocabulary: usize) -> Vec<Vec<f64>> {
    let row = |row: &[f32]| {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let sum = row
            .iter()
            .map(|logit| f64::from(logit - most).exp())
            .sum::<f64>()
            .ln();
        row.iter()
            .map(|logit| f64::from(logit - most) - sum)
            .collect()
    };
    logits.chunks(vocabulary).map(row).collect()
}

#[test]
fn a_run_of_one_thread_is_merged_by_one_thread() {
    let desk = trained(|_| {});
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "threads: 1\noutput_dir: run",
    );
    desk.run(&["train", "recipe.yaml", "--overwrite"])
        .says("train", 0, &[]);
    // Reading, computing and writing wait for each other, and the run's pool has one thread.
    merge(&desk, &[]).says("merge", 0, &[]);
}

#[test]
fn with_a_large_error_of_packing_the_unpacked_base_is_taken() {
    let desk = trained(with_outliers);
    let ran = merge(&desk, &["--dtype", "f32"]);
    ran.says("merge", 0, &[]);
    let report = report(&desk);
    let (base, unpacked) = (of(&report, "base"), of(&report, "dequantized base"));
    assert!(
        base["kl"].as_f64().unwrap() > 0.05 && unpacked["kl"].as_f64().unwrap() < 1e-9,
        "{report}"
    );
    assert!(
        base["top1_agreement"].as_f64().unwrap() < 1.0 && unpacked["top1_agreement"] == 1.0,
        "{report}"
    );
    assert_eq!(
        (&report["chosen"], &report["accepted"]),
        (&"dequantized base".into(), &true.into())
    );
    assert!(
        ran.stdout.contains("into the dequantized base, chosen"),
        "{}",
        ran.stdout
    );

    // The divergence once more, from whole logits and by its definition.
    let storage = Storage {
        form: Some(QuantFormat::QLORA),
        ..ModelDtype::Auto.into()
    };
    let mut trained = Folder::open(&desk.path("base"))
        .unwrap()
        .load(storage, &Device::flex(), &|_| {})
        .unwrap();
    common::attach_peft(&mut trained, &desk.path("run/adapter"));
    desk.run(&[
        "merge",
        "--adapter",
        "run/adapter",
        "--out",
        "dense",
        "--uncompared",
    ])
    .says("uncompared", 0, &[]);
    let dense = common::load(&desk.path("dense"));
    let (mut divergence, mut agreeing, mut tokens) = (0.0, 0.0, 0.0);
    for batch in held_out(&desk) {
        let [p, q] = [&trained, &dense]
            .map(|decoder| log_softmax(&common::logits(decoder, &batch), decoder.spec.vocabulary));
        for place in &batch.positions {
            let (p, q) = (&p[*place as usize], &q[*place as usize]);
            divergence += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            let likeliest =
                |row: &[f64]| (0..row.len()).max_by(|one, other| row[*one].total_cmp(&row[*other]));
            agreeing += f64::from(u8::from(likeliest(p) == likeliest(q)));
            tokens += 1.0;
        }
    }
    assert_eq!(report["trained_tokens"].as_f64(), Some(tokens));
    assert!(
        (base["kl"].as_f64().unwrap() - divergence / tokens).abs() < 1e-6,
        "{} {report}",
        divergence / tokens
    );
    assert!(
        (base["top1_agreement"].as_f64().unwrap() - agreeing / tokens).abs() < 1e-9,
        "{report}"
    );

    // What `eval` computes of the run and of the merged model is what the report has.
    let eval = |arguments: &[&str]| -> Value {
        let ran = desk.run(&[&["eval"], arguments, &["--json"]].concat());
        ran.says("eval", 0, &[]);
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let near =
        |one: &Value, other: &Value| (one.as_f64().unwrap() - other.as_f64().unwrap()).abs() < 1e-6;
    let of_run = eval(&["run"]);
    assert!(
        near(
            &of_run["total"]["adapter"]["loss"],
            &report["trained"]["loss"]
        ),
        "{of_run} {report}"
    );
    assert_eq!(of_run["total"]["trained_tokens"], report["trained_tokens"]);
    let of_merged = eval(&["recipe.yaml", "base_model=merged", "adapter.method=lora"]);
    assert!(
        near(&of_merged["total"]["base"]["loss"], &unpacked["loss"]),
        "{of_merged} {report}"
    );
}

#[test]
fn an_adapter_that_adds_nothing_leaves_the_trained_model() {
    let desk = trained(|_| {});
    edit(
        &desk.path("run/adapter/adapter_model.safetensors"),
        |name, numbers| {
            if name.contains("lora_B") {
                numbers.fill(0.0);
            }
        },
    );
    merge(&desk, &[]).says("merge", 0, &["the adapters add nothing"]);
    let report = report(&desk);
    assert!(
        of(&report, "dequantized base")["kl"].as_f64().unwrap() < 1e-12,
        "{report}"
    );
    assert!(
        of(&report, "base")["kl"].as_f64().unwrap() > 0.0,
        "{report}"
    );
    // What is merged are the numbers that packing left.
    let storage = Storage {
        form: Some(QuantFormat::QLORA),
        ..ModelDtype::Auto.into()
    };
    let base = Folder::open(&desk.path("base"))
        .unwrap()
        .load(storage, &Device::flex(), &|_| {})
        .unwrap();
    let merged = common::load(&desk.path("merged"));
    let row = TokenRow {
        ids: (5..25).collect(),
        trained: vec![true; 20],
    };
    let logits = |decoder| common::logits(decoder, &common::batch(vec![row.clone()]));
    let (packed, dense) = (logits(&base), logits(&merged));
    assert!(packed == dense, "to the bit");
}

#[test]
fn what_is_too_far_is_not_left_in_place() {
    let desk = trained(|_| {});
    let ran = merge(&desk, &["--dtype", "bf16", "--max-kl", "0"]);
    ran.says(
        "too far",
        76,
        &[
            "nats from the trained model, `--max-kl` is 0",
            "hint: serve the adapter on its packed base",
        ],
    );
    let left: Vec<_> = fs::read_dir(desk.path("merged"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["merge-report.json"]);
    assert_eq!(report(&desk)["accepted"], false);
    merge(&desk, &["--dtype", "bf16"]).says("near enough", 0, &[]);
    assert_eq!(report(&desk)["accepted"], true);
    assert!(
        of(&report(&desk), "dequantized base")["kl"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    common::load(&desk.path("merged"));
    merge(&desk, &[]).says("there already", 73, &["`merged` exists"]);
    assert_eq!(merge(&desk, &["--max-kl", "-1"]).exit, 2);
}

#[test]
fn a_base_that_is_stored_packed_is_merged_into_what_it_stands_for() {
    let desk = trained(|desk| {
        desk.run(&["quantize", "base", "--out", "packed"])
            .says("quantize", 0, &[]);
    });
    let packed = [
        "train",
        "recipe.yaml",
        "base_model=packed",
        "output_dir=other",
    ];
    desk.run(&packed).says("packed", 0, &[]);
    desk.run(&["merge", "--adapter", "other/adapter", "--out", "merged"])
        .says("merge", 0, &[]);
    let report = report(&desk);
    assert_eq!(report["merges"].as_array().unwrap().len(), 1);
    assert!(
        of(&report, "dequantized base")["kl"].as_f64().unwrap() < 1e-9,
        "{report}"
    );
    assert!(
        json(&desk.path("merged/config.json"))
            .get("quantization_config")
            .is_none()
    );
    desk.run(&[
        "merge",
        "--adapter",
        "run/adapter",
        "--out",
        "same",
        "--max-kl",
        "9",
    ])
    .says("of the base in numbers", 0, &[]);
    let tensors =
        |folder: &str| fs::read(desk.path(&format!("{folder}/model.safetensors"))).unwrap();
    assert!(
        tensors("merged") == tensors("same"),
        "it is the same run, and the same numbers"
    );
    // Changed since: said before anything is written.
    desk.edit(
        "packed/config.json",
        "\"use_cache\": true",
        "\"use_cache\": false",
    );
    desk.run(&["merge", "--adapter", "other/adapter", "--out", "x"])
        .says("changed", 65, &["is not what adapter"]);
    assert!(!desk.path("x").exists());
}

#[test]
fn what_is_not_compared_is_said() {
    let desk = trained(|_| {});
    merge(&desk, &["--uncompared"]).says("uncompared", 0, &["the merge is not compared with it"]);
    assert!(!desk.path("merged/merge-report.json").exists());
    desk.run(&["merge", "--adapter", "run/adapter=0.5", "--out", "half"])
        .says("weighted", 0, &["that takes one adapter, of weight 1"]);
    desk.run(&["export", "run", "--to", "gguf", "--out", "x.gguf"])
        .says("export", 0, &["this one is not compared"]);

    // Without rows to compare on there is nothing to go by; any file will do.
    desk.run(&[
        "train",
        "recipe.yaml",
        "evaluation.val_set_size=0",
        "output_dir=bare",
    ])
    .says("train", 0, &[]);
    let bare = |options: &[&str]| {
        desk.run(
            &[
                &["merge", "--adapter", "bare/adapter", "--out", "bare-merged"],
                options,
            ]
            .concat(),
        )
    };
    bare(&[]).says(
        "no rows",
        65,
        &[
            "there are no validation rows",
            "hint: name rows that were not trained on with `--data FILE`",
        ],
    );
    bare(&["--data", "rows.parquet"]).says("named rows", 0, &[]);
    assert_eq!(
        json(&desk.path("bare-merged/merge-report.json"))["sets"][0]["name"],
        "--data"
    );
    desk.run(&[
        "train",
        "recipe.yaml",
        "adapter.method=lora",
        "output_dir=plain",
    ])
    .says("train", 0, &[]);
    let plain = desk.run(&[
        "merge",
        "--adapter",
        "plain/adapter",
        "--out",
        "x",
        "--data",
        "rows.parquet",
    ]);
    plain.says(
        "no packed base",
        2,
        &["is for the comparison with a packed base, and there is none"],
    );
}
