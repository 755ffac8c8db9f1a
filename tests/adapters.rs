//! Adapters as people have them: releases of PEFT, writers, names around keys, expressions, ways to
//! begin, tables of resized vocabularies. Loaded and merged, they compute what PEFT computes; what
//! is refused says why. Made by `tests/golden/make_adapters.py`.

mod common;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::{batch, difference, json, largest, load};
use rankine::adapter::{attach, peft};
use rankine::data::TokenRow;
use rankine::export::merge::{Addend, GgufNumbers, MergeRequest, Onto, OtherBase, merge};
use rankine::fault::Explain;
use rankine::files::safetensors::{Archive, Named, write_f32};
use rankine::model::{Decoder, Folder, shard_paths};
use serde_json::{Value, json};
use support::Desk;
use tempfile::TempDir;

/// Numbers that follow from a name, uniform in (-0.25, 0.25): FNV-1a of the name, `SplitMix64` of
/// each place.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let fnv = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let number = |place: u64| {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(place + 1));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 40) as f32 / 16_777_216.0 - 0.5) * 0.5
    };
    (0..count as u64).map(number).collect()
}

/// A file of tests/golden; of another set the numbers here are not.
fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

struct Matrix {
    file: Value,
    folder: TempDir,
}

impl Matrix {
    fn open() -> Self {
        let matrix = Self {
            file: json(&golden("adapters/matrix.json")),
            folder: tempfile::tempdir().unwrap(),
        };
        for base in ["llama", "qwen2"] {
            matrix.resize(base);
        }
        matrix
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of a base.
    fn base(&self, name: &str) -> PathBuf {
        if name.contains("310") {
            self.path(name)
        } else {
            golden(&format!("archs/{name}/model"))
        }
    }

    /// A base with six tokens more.
    fn resize(&self, family: &str) {
        let (from, to) = (
            self.base(family),
            self.path(if family == "llama" {
                "llama310"
            } else {
                "qwen2_310"
            }),
        );
        fs::create_dir(&to).unwrap();
        let mut config = json(&from.join("config.json"));
        config["vocab_size"] = json!(310);
        fs::write(to.join("config.json"), config.to_string()).unwrap();
        let tensor = |(name, mut shape, mut values): Named| {
            if shape[0] == 304 {
                shape[0] = 310;
                values.extend(numbers(&format!("new rows of {name}"), 6 * shape[1]));
            }
            (name, shape, values)
        };
        let tensors: Vec<Named> = tensors(&from).into_iter().map(tensor).collect();
        write_f32(&to.join("model.safetensors"), &tensors, &[]).unwrap();
    }

    /// Writes the adapter of a case.
    fn adapter(&self, index: usize, case: &Value) -> PathBuf {
        let folder = self.path(&format!("adapter-{index}"));
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join("adapter_config.json"),
            case["config"].to_string(),
        )
        .unwrap();
        let base = tensors(&self.base(case["base"].as_str().unwrap()));
        let of_base = |wanted: &str| {
            base.iter()
                .find(|(name, ..)| name == wanted)
                .unwrap()
                .2
                .clone()
        };
        let tensor = |tensor: &Value| {
            let [key, source] = [0, 1].map(|index| tensor[index].as_str().unwrap());
            let shape: Vec<usize> = serde_json::from_value(tensor[2].clone()).unwrap();
            let source = if source == "=" {
                key.strip_prefix("base_model.model.").unwrap()
            } else {
                source
            };
            let values = match source.strip_prefix("base:") {
                Some(name) => of_base(name),
                None => numbers(source, shape.iter().product()),
            };
            (key.to_owned(), shape, values)
        };
        let tensors: Vec<Named> = case["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(tensor)
            .collect();
        write_f32(
            &folder.join("adapter_model.safetensors"),
            &tensors,
            &[("format", "pt".to_owned())],
        )
        .unwrap();
        folder
    }

    /// The logits that the file has of a decoder.
    fn logits(&self, decoder: &Decoder) -> Vec<f32> {
        let list =
            |key: &str| serde_json::from_value::<Vec<usize>>(self.file[key].clone()).unwrap();
        let ids: Vec<u32> = list("tokens")
            .into_iter()
            .map(|token| token as u32)
            .collect();
        let trained = vec![true; ids.len()];
        let all = common::logits(decoder, &batch(vec![TokenRow { ids, trained }]));
        let row = |place: usize| {
            &all[place * decoder.spec.vocabulary..(place + 1) * decoder.spec.vocabulary]
        };
        list("places")
            .into_iter()
            .flat_map(|place| {
                list("columns")
                    .into_iter()
                    .map(move |column| row(place)[column])
            })
            .collect()
    }
}

/// All tensors of a base.
fn tensors(folder: &Path) -> Vec<Named> {
    let archives = shard_paths(folder)
        .unwrap()
        .into_iter()
        .map(|path| Archive::open(&path).unwrap());
    let of = |archive: Archive| {
        let shapes = archive.shapes().into_iter();
        shapes
            .map(|(name, shape)| {
                (
                    name.clone(),
                    shape,
                    archive.read_f32(&name).unwrap().unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    archives.flat_map(of).collect()
}

fn values(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A decoder with an adapter.
fn attached(base: &Path, adapter: &Path) -> Result<Decoder, rankine::adapter::AdapterError> {
    let mut decoder = load(base);
    let modules = decoder.spec.modules();
    let config = peft::read_config_on(adapter, &modules)?;
    let numbers = peft::read_numbers(adapter, &config, &modules)?;
    attach(&mut decoder, &config, 0, Some(&numbers))?;
    Ok(decoder)
}

fn merged(
    base: &Path,
    adapter: &Path,
    out: &Path,
) -> Result<Decoder, rankine::export::merge::MergeError> {
    let adapters = vec![Addend {
        folder: adapter.to_owned(),
        weight: 1.0,
        trained_on: None,
    }];
    let (base, out) = (base.to_owned(), out.to_owned());
    let order = MergeRequest {
        base,
        adapters,
        out: out.clone(),
        float: None,
        other_base: OtherBase::Refuse,
        onto: Onto::Stored,
        counts_q8_0: false,
        keeps_gguf: false,
        gguf: GgufNumbers::Own,
    };
    merge(&order, &AtomicBool::new(false), &|_| {})?;
    Ok(load(&out))
}

/// All that is refused, in one text.
fn said(error: &dyn Explain) -> String {
    let faults = error.faults().into_iter();
    faults
        .map(|fault| format!("{fault}\n{}\n", fault.hint.clone().unwrap_or_default()))
        .collect()
}

#[test]
fn adapters_of_others_compute_what_peft_computes_or_are_refused_with_a_reason() {
    let matrix = Matrix::open();
    for (base, expected) in matrix.file["base_logits"].as_object().unwrap() {
        let found = difference(&matrix.logits(&load(&matrix.base(base))), &values(expected));
        assert!(found < 1e-5, "{base}: {found}");
    }
    let (mut loaded, mut refused, mut attached_differences, mut merged_differences) =
        (0, 0, Vec::new(), Vec::new());
    let mut wrong = Vec::new();
    for (index, case) in matrix.file["cases"].as_array().unwrap().iter().enumerate() {
        let (name, base) = (
            case["name"].as_str().unwrap(),
            matrix.base(case["base"].as_str().unwrap()),
        );
        let adapter = matrix.adapter(index, case);
        let result = attached(&base, &adapter);
        if let Some(words) = case["refused"].as_array() {
            refused += 1;
            let said = result
                .err()
                .map_or_else(|| "it loads".to_owned(), |error| said(&error));
            let lacks = words
                .iter()
                .filter_map(Value::as_str)
                .find(|word| !said.contains(word));
            wrong.extend(lacks.map(|word| format!("{name}: `{word}` is not in {said}")));
            continue;
        }
        let decoder = match result {
            Ok(decoder) => decoder,
            Err(error) => {
                wrong.push(format!("{name}: {}", said(&error)));
                continue;
            }
        };
        loaded += 1;
        let expected = values(&case["logits"]);
        let found = difference(&matrix.logits(&decoder), &expected);
        attached_differences.push(found);
        if found.is_nan() || found > 1e-5 {
            wrong.push(format!("{name}: attached, {found} from PEFT"));
        }
        // Of a base without biases those of an adapter cannot be merged.
        let out = matrix.path(&format!("merged-{index}"));
        match merged(&base, &adapter, &out) {
            Err(error) if case["config"]["lora_bias"] == true => {
                assert!(error.to_string().contains("it has a bias"), "{error}");
            }
            Err(error) => wrong.push(format!("{name}: merged, {}", said(&error))),
            Ok(decoder) => {
                let found = difference(&matrix.logits(&decoder), &expected);
                merged_differences.push(found);
                if found.is_nan() || found > 1e-5 {
                    wrong.push(format!("{name}: merged, {found} from PEFT"));
                }
            }
        }
    }
    let [attached, merged] =
        [&attached_differences, &merged_differences].map(|found| largest(found.iter().copied()));
    println!(
        "{loaded} load, {attached:e} from PEFT at most; {} merged, {merged:e}; {refused} refused",
        merged_differences.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        loaded + refused,
        wrong.join("\n")
    );
    assert!(
        loaded >= 100 && refused >= 20,
        "{loaded} load, {refused} are refused"
    );
}

#[test]
fn what_peft_would_pass_over_is_loaded_with_a_note() {
    let matrix = Matrix::open();
    let words = [
        ("key: default", vec!["the adapter's name `default`"]),
        ("key: another adapter's name", vec!["`my-sft_v2`"]),
        (
            "key: _orig_mod in front",
            vec!["`_orig_mod` of torch.compile"],
        ),
        ("key: module in front", vec!["`module.` of DDP"]),
        (
            "key: base_model.model twice",
            vec!["`base_model.model.` more than once"],
        ),
        ("key: no prefix", vec!["no `base_model.model.` in front"]),
        (
            "key: of the language model of a wrapper, old",
            vec!["`language_model.model.layers.0`", "`model.layers.0`"],
        ),
        ("key: one model too few", vec!["`layers.0` and so on"]),
        (
            "targets: look-ahead",
            vec![
                "`target_modules` is `(?!.*mlp)",
                "the tensors of the file say where the adapter is",
            ],
        ),
        ("targets: null", vec!["`target_modules` names no module"]),
        ("fan_in_fan_out", vec!["`fan_in_fan_out: true`"]),
        ("bias of a base without", vec!["`bias: all`"]),
        ("start: eva's config alone", vec!["`eva_config`"]),
        (
            "later keys that say nothing",
            vec!["`later_one`", "`later_two`", "`later_three`"],
        ),
        (
            "tables of the base, llama310",
            vec!["`base_model.model.lm_head.weight` is the base's table `lm_head`"],
        ),
        ("PEFT 0.2.0", vec![]),
        ("PEFT 0.21.2", vec![]),
        ("start: eva", vec![]),
        ("Unsloth", vec![]),
    ];
    let cases = matrix.file["cases"].as_array().unwrap();
    for (index, (name, words)) in words.into_iter().enumerate() {
        let case = cases
            .iter()
            .find(|case| case["name"] == name)
            .unwrap_or_else(|| panic!("no case `{name}`"));
        let modules = Folder::open(&matrix.base(case["base"].as_str().unwrap()))
            .unwrap()
            .spec
            .modules();
        let notes = peft::notes(&matrix.adapter(index, case), Some(&modules)).unwrap();
        assert_eq!(notes.is_empty(), words.is_empty(), "{name}: {notes:?}");
        for word in words {
            assert!(
                notes.iter().any(|note| note.contains(word)),
                "{name}: `{word}` is not in {notes:?}"
            );
        }
    }
}

/// The cases that people reported, by their folders.
#[test]
fn reported_adapters_merge_to_what_peft_computes() {
    let (matrix, base) = (Matrix::open(), golden("archs/llama/model"));
    for (name, expected) in matrix.file["folders"].as_object().unwrap() {
        let adapter = golden("adapters/cases").join(name);
        let (desk, expected) = (Desk::new(), values(expected));
        let [shown, of_base] = [&adapter, &base].map(|path| path.display().to_string());
        desk.run(&[
            "merge",
            "--adapter",
            &shown,
            "--base",
            &of_base,
            "--out",
            "merged",
        ])
        .says(name, 0, &[]);
        let of_merged = difference(&matrix.logits(&load(&desk.path("merged"))), &expected);
        let of_attached = difference(
            &matrix.logits(&attached(&base, &adapter).unwrap()),
            &expected,
        );
        println!("{name}: attached {of_attached:e}, merged {of_merged:e} from PEFT");
        assert!(
            of_merged < 1e-5 && of_attached < 1e-5,
            "{name}: {of_merged}, {of_attached}"
        );
        desk.run(&[
            "generate",
            "--adapter",
            &shown,
            "--base",
            &of_base,
            "--prompt",
            "the term",
            "--max-tokens",
            "2",
        ])
        .says(name, 0, &[]);
        desk.run(&["inspect", &shown]).says(name, 0, &[]);
        // What is written again has PEFT's own keys, and is read without a note.
        desk.run(&[
            "export", &shown, "--base", &of_base, "--to", "peft", "--out", "peft",
        ])
        .says(name, 0, &[]);
        let modules = Folder::open(&base).unwrap().spec.modules();
        let of_exported = difference(
            &matrix.logits(&attached(&base, &desk.path("peft")).unwrap()),
            &expected,
        );
        assert!(of_exported < 1e-5, "{name}: {of_exported}");
        assert!(
            peft::renamed_in(&peft::open(&desk.path("peft")).unwrap(), &modules).is_empty(),
            "{name}"
        );
        desk.run(&[
            "export", &shown, "--base", &of_base, "--to", "mlx", "--out", "mlx",
        ])
        .says(name, 0, &[]);
        desk.run(&[
            "export",
            &shown,
            "--base",
            &of_base,
            "--to",
            "gguf-adapter",
            "--out",
            "a.gguf",
        ])
        .says(name, 0, &[]);
    }
}

/// A desk with a trained run.
fn trained() -> Desk {
    let desk = Desk::new();
    let words = [
        "train",
        "recipe.yaml",
        "training.learning_rate=0.1",
        "training.lr_scheduler=constant",
        "output.save_steps=1",
    ];
    desk.run(&words).says("a run", 0, &[]);
    desk
}

/// The adapter of a run as a repository in the Hub's cache.
fn in_cache(desk: &Desk, adapter: &str, repository: &str) {
    let commit = "a".repeat(40);
    let folder = desk
        .path("hub-home/hub")
        .join(format!("models--{}", repository.replace('/', "--")));
    let snapshot = folder.join("snapshots").join(&commit);
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("refs/main"), &commit).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(desk.path(adapter).join(file), snapshot.join(file)).unwrap();
    }
}

/// Runs, checkpoints, adapters and repositories of the Hub, for every verb that takes an adapter.
#[test]
fn every_verb_takes_an_adapter_by_its_folder_its_run_its_checkpoint_and_its_name_on_the_hub() {
    let desk = trained();
    in_cache(&desk, "run/adapter", "me/ad");
    let answer = |adapter: &str| {
        let ran = desk.run(&[
            "generate",
            "--adapter",
            adapter,
            "--base",
            "base",
            "--prompt",
            "the term",
            "--max-tokens",
            "6",
            "--json",
        ]);
        ran.says(adapter, 0, &[]);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["tokens"].clone()
    };
    let expected = answer("run/adapter");
    for (index, adapter) in [
        "run/adapter",
        "run",
        "run/",
        "run/checkpoints/step-2",
        "me/ad",
        "me/ad@main",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(answer(adapter), expected, "{adapter}");
        let out = format!("merged-{index}");
        desk.run(&[
            "merge",
            "--adapter",
            adapter,
            "--base",
            "base",
            "--out",
            &out,
        ])
        .says(adapter, 0, &[]);
        assert!(
            desk.read(&format!("{out}/model.safetensors"))
                == desk.read("merged-0/model.safetensors"),
            "{adapter}"
        );
        let out = format!("half-{index}");
        desk.run(&[
            "merge",
            "--adapter",
            &format!("{adapter}=0.5"),
            "--base",
            "base",
            "--out",
            &out,
        ])
        .says(adapter, 0, &[]);
        assert!(
            desk.read(&format!("{out}/model.safetensors")) == desk.read("half-0/model.safetensors"),
            "{adapter}"
        );
        let ran = desk.run(&["inspect", adapter, "--json"]);
        ran.says(adapter, 0, &[]);
        let found: Value = serde_json::from_str(&ran.stdout).unwrap();
        let kind = if ["run", "run/"].contains(&adapter) {
            "run"
        } else {
            "adapter"
        };
        assert_eq!(found["kind"], kind, "{adapter}");
        // Its input is at its end.
        desk.run(&[
            "chat",
            "--adapter",
            adapter,
            "--base",
            "base",
            "--max-tokens",
            "4",
        ])
        .says(adapter, 0, &[]);
        let ran = desk.run(&[
            "eval",
            "run",
            "--adapter",
            adapter,
            "--data",
            "rows.parquet",
            "--json",
        ]);
        ran.says(adapter, 0, &[]);
        let ran = desk.run(&[
            "eval",
            "recipe.yaml",
            "--adapter",
            adapter,
            "--data",
            "rows.parquet",
            "--json",
        ]);
        ran.says(adapter, 0, &[]);
        let out = format!("mlx-{index}");
        desk.run(&[
            "export", adapter, "--base", "base", "--to", "mlx", "--out", &out,
        ])
        .says(adapter, 0, &[]);
        let [from, out] = [
            format!("adapter.init_from={adapter}"),
            format!("output_dir=next-{index}"),
        ];
        desk.run(&["train", "recipe.yaml", "adapter.r=", &from, &out])
            .says(adapter, 0, &[]);
        let next =
            |index: usize| desk.read(&format!("next-{index}/adapter/adapter_model.safetensors"));
        assert!(next(index) == next(0), "{adapter}");
    }
    let generate = |adapter: &str| {
        desk.run(&[
            "generate",
            "--adapter",
            adapter,
            "--base",
            "base",
            "--prompt",
            "x",
        ])
    };
    generate("me/other").says(
        "not in the cache",
        69,
        &["`me/other` is not in the cache", "rankine pull me/other"],
    );
    generate("nowhere").says(
        "nothing",
        66,
        &["adapter `nowhere` does not exist, expected a folder or a Hub id"],
    );
    generate("base").says("a model", 65, &["`base` holds no adapter"]);
    desk.run(&[
        "train",
        "recipe.yaml",
        "adapter.r=",
        "adapter.init_from=me/other",
        "output_dir=x",
    ])
    .says(
        "a start that is not there",
        65,
        &[
            "adapter.init_from: `me/other` is neither a folder nor in the Hub's cache",
            "rankine pull me/other",
        ],
    );
}

/// What is said on the way: nothing of an adapter is read otherwise than it is written without a
/// word.
#[test]
fn verbs_say_what_of_an_adapter_is_read_otherwise() {
    let desk = trained();
    let archive = Archive::open(&desk.path("run/adapter/adapter_model.safetensors")).unwrap();
    let renamed = |(key, shape): (String, Vec<usize>)| {
        let values = archive.read_f32(&key).unwrap().unwrap();
        (key.replace(".weight", ".default.weight"), shape, values)
    };
    let tensors: Vec<Named> = archive.shapes().into_iter().map(renamed).collect();
    fs::create_dir(desk.path("raw")).unwrap();
    fs::copy(
        desk.path("run/adapter/adapter_config.json"),
        desk.path("raw/adapter_config.json"),
    )
    .unwrap();
    write_f32(&desk.path("raw/adapter_model.safetensors"), &tensors, &[]).unwrap();
    let note = ["the adapter's name `default`"];
    let base = ["--base", "base"];
    let run =
        |words: &[&str], more: &[&str]| desk.run(&[words, more].concat()).says(words[0], 0, &note);
    run(
        &[
            "generate",
            "--adapter",
            "raw",
            "--prompt",
            "x",
            "--max-tokens",
            "2",
        ],
        &base,
    );
    run(&["merge", "--adapter", "raw", "--out", "merged"], &base);
    run(&["export", "raw", "--to", "mlx", "--out", "mlx"], &base);
    run(
        &[
            "eval",
            "recipe.yaml",
            "--adapter",
            "raw",
            "--data",
            "rows.parquet",
        ],
        &[],
    );
    run(
        &[
            "train",
            "recipe.yaml",
            "adapter.r=",
            "adapter.init_from=raw",
            "output_dir=next",
        ],
        &[],
    );
    let ran = desk.run(&["inspect", "raw"]);
    ran.says("inspect", 0, &[]);
    assert!(
        ran.stdout.contains(note[0]) && ran.stdout.contains("q_proj x 2"),
        "{}",
        ran.stdout
    );
    // What goes on from it is saved as PEFT saves it.
    let next = Archive::open(&desk.path("next/adapter/adapter_model.safetensors")).unwrap();
    assert!(next.shapes().into_keys().eq(archive.shapes().into_keys()));
}

/// A table in the place of the base's own is in the merge, and in nothing that has no place for it.
#[test]
fn a_table_in_place_of_the_bases_is_not_lost() {
    let matrix = Matrix::open();
    let case = |name: &str| {
        let cases = matrix.file["cases"].as_array().unwrap();
        cases
            .iter()
            .find(|case| case["name"] == name)
            .unwrap_or_else(|| panic!("no case `{name}`"))
    };
    let other = matrix.adapter(0, case("tables in place of the base's, llama310"));
    let same = matrix.adapter(1, case("tables of the base, llama310"));
    let desk = Desk::new();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(
            matrix.base("llama310").join(file),
            desk.path("base").join(file),
        )
        .unwrap();
    }
    let [other, same] = [other, same].map(|path| path.display().to_string());
    let export = |adapter: &str, to: &str, out: &str| {
        desk.run(&[
            "export", adapter, "--base", "base", "--to", to, "--out", out,
        ])
    };
    let words = [
        "that is not this base's",
        "merge this adapter alone into the base",
    ];
    for to in ["mlx", "gguf-adapter"] {
        export(&same, to, to).says("the base's", 0, &["is the base's table"]);
        export(&other, to, "x").says("another", 65, &words);
    }
    let from = |adapter: &str| format!("adapter.init_from={adapter}");
    desk.run(&["train", "recipe.yaml", "adapter.r=", &from(&same)])
        .says("the base's", 0, &[]);
    desk.run(&[
        "train",
        "recipe.yaml",
        "adapter.r=",
        &from(&other),
        "output_dir=x",
    ])
    .says("another", 65, &words);
    let half = format!("{other}=0.5");
    desk.run(&["merge", "--adapter", &half, "--base", "base", "--out", "y"])
        .says("another, half", 65, &words);
    desk.run(&[
        "merge",
        "--adapter",
        &other,
        "--adapter",
        &same,
        "--base",
        "base",
        "--out",
        "y",
    ])
    .says("two", 65, &words);
}
